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
local entries = redis.call('HGETALL', KEYS[1])
local order = {}
for index = 1, #entries, 2 do
  local seq, list = string.match(entries[index], '^(%d+):(%d+)$')
  order[#order + 1] = {tonumber(seq), tonumber(list), entries[index + 1]}
end
-- The oldest is pushed last, so that it is served first.
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
