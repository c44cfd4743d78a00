-- Puts messages of a lapsed lease back to the front of their queue, with the payloads that the caller gives.
-- KEYS: the dead consumer's lease hash, the queue's set of deadlines, the queue's lists.
-- ARGV: the dead consumer, then field, payload, ...; the last one is served first.
-- Returns how many were put back; -1 when the consumer is alive, because it has renewed the lease meanwhile.
local now = server_time()
local deadline = redis.call('ZSCORE', KEYS[2], ARGV[1])
if deadline and tonumber(deadline) > now then
  return -1
end
local count = 0
for index = 2, #ARGV, 2 do
  if redis.call('HDEL', KEYS[1], ARGV[index]) == 1 then
    local list = tonumber(string.match(ARGV[index], ':(%d+)$'))
    redis.call('RPUSH', KEYS[list + 3], ARGV[index + 1])
    count = count + 1
  end
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('ZREM', KEYS[2], ARGV[1])
end
return count
