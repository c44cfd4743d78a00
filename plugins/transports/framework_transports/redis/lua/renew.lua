-- Renews a consumer's leases, and lists consumers whose leases have lapsed.
-- KEYS, for each queue: the consumer's lease hash, the queue's set of deadlines. ARGV: consumer, lease (ms).
-- Returns for each queue the list of consumers whose lease has lapsed (at most 100).
local now = server_time()
local lapsed = {}
for index = 1, #KEYS, 2 do
  if redis.call('EXISTS', KEYS[index]) == 1 then
    -- Makes a full server accept the next write: see reserve.lua.
    redis.call('ZREM', KEYS[index + 1], '')
    redis.call('ZADD', KEYS[index + 1], string.format('%.0f', now + ARGV[2]), ARGV[1])
  else
    redis.call('ZREM', KEYS[index + 1], ARGV[1])
  end
  lapsed[#lapsed + 1] = redis.call('ZRANGEBYSCORE', KEYS[index + 1], '-inf', string.format('%.0f', now), 'LIMIT', 0, 100)
end
return lapsed
