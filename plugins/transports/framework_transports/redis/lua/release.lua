-- Puts all messages that a consumer has leased from one queue back to the front, unchanged, and deletes the lease.
-- KEYS: the consumer's lease hash, the queue's set of deadlines, the queue's lists. ARGV: consumer.
-- Returns how many messages were put back.
-- Makes a full server accept the writes below: see reserve.lua.
redis.call('HDEL', KEYS[1], '')
local entries = redis.call('HGETALL', KEYS[1])
local order = {}
for index = 1, #entries, 2 do
  local seq, list = string.match(entries[index], '^(%d+):(%d+)$')
  order[#order + 1] = {tonumber(seq), tonumber(list), entries[index + 1]}
end
-- The oldest is pushed last, so that it is served first.
table.sort(order, function(one, other) return one[1] > other[1] end)
for _, entry in ipairs(order) do
  redis.call('RPUSH', KEYS[entry[2] + 3], entry[3])
end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return #order
