-- Functions of several scripts; put in front of each.

-- Returns the server's time (ms).
local function server_time()
  local clock = redis.call('TIME')
  return clock[1] * 1000 + math.floor(clock[2] / 1000)
end

-- Puts the unacknowledged messages of a consumer back to the front of their queue, unchanged, and deletes its lease.
-- Returns how many messages were put back.
-- lease: the consumer's lease hash; lists: where KEYS has the first of the queue's lists; deadlines: the queue's set of deadlines.
local function give_back(consumer, lease, deadlines, lists)
  local entries = redis.call('HGETALL', lease)
  local order = {}
  for index = 1, #entries, 2 do
    local seq, list = string.match(entries[index], '^(%d+):(%d+)$')
    order[#order + 1] = {tonumber(seq), tonumber(list), entries[index + 1]}
  end
  -- The oldest is pushed last, so that it is served first.
  table.sort(order, function(one, other) return one[1] > other[1] end)
  for _, entry in ipairs(order) do
    redis.call('RPUSH', KEYS[lists + entry[2]], entry[3])
  end
  redis.call('DEL', lease)
  redis.call('ZREM', deadlines, consumer)
  return #order
end
