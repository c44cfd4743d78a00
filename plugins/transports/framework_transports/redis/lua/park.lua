-- Parks messages that are on loan: from the lease they go to the sorted set of what comes due later.
-- KEYS: the consumer's lease hash, the queue's set of parked messages. ARGV: consumer, then field, delay (ms), ...
-- A member is <list>:<sequence>:<consumer>, a line break, and the payload: two messages that are alike stay two.
-- Returns how many were still on loan.
-- Lets a full server take the writes below: see reserve.lua.
redis.call('HDEL', KEYS[1], '')
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local count = 0
for index = 2, #ARGV, 2 do
  local field = ARGV[index]
  local payload = redis.call('HGET', KEYS[1], field)
  if payload then
    local seq, list = string.match(field, '^(%d+):(%d+)$')
    local member = list .. ':' .. seq .. ':' .. ARGV[1] .. '\n' .. payload
    redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[index + 1]), member)
    redis.call('HDEL', KEYS[1], field)
    count = count + 1
  end
end
return count
