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
local entries = redis.call('HGETALL', KEYS[1])
local order = {}
for index = 1, #entries, 2 do
  local seq, list = string.match(entries[index], '^(%d+):(%d+)$')
  order[#order + 1] = {tonumber(seq), tonumber(list), entries[index + 1]}
end
-- The oldest goes last, so that it is served first.
table.sort(order, function(one, other) return one[1] > other[1] end)
for _, entry in ipairs(order) do
  redis.call('RPUSH', KEYS[entry[2] + 4], entry[3])
end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[3], ARGV[1])
if #kept > 0 then
  local clock = redis.call('TIME')
  redis.call('ZADD', KEYS[3], string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[3]), ARGV[2])
end
return kept
