-- Moves messages that one consumer has leased from a queue to another consumer; puts its other messages back to the front, unchanged.
-- KEYS: the lost consumer's lease hash, the new consumer's lease hash, the queue's set of deadlines, the queue's lists.
-- ARGV: the lost consumer, the new consumer, lease (ms), then the fields to move.
-- Returns the fields that were moved.
-- Makes a full server accept the writes below: see reserve.lua.
redis.call('HDEL', KEYS[1], '')
local kept = {}
for index = 4, #ARGV do
  local payload = redis.call('HGET', KEYS[1], ARGV[index])
  if payload then
    redis.call('HSET', KEYS[2], ARGV[index], payload)
    redis.call('HDEL', KEYS[1], ARGV[index])
    kept[#kept + 1] = ARGV[index]
  end
end
give_back(ARGV[1], KEYS[1], KEYS[3], 4)
if #kept > 0 then
  redis.call('ZADD', KEYS[3], string.format('%.0f', server_time() + ARGV[3]), ARGV[2])
end
return kept
