-- Hands what one consumer has on loan from one queue to another consumer; what that one does not want goes back to the front, as it is.
-- KEYS: the lost consumer's lease hash, the new one's, the queue's set of deadlines, the queue's lists.
-- ARGV: the lost consumer, the new one, lease (ms), then the fields to keep.
-- Returns those of them that were still on loan.
-- Opens the script for all other writes when the server is full: see reserve.lua.
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
