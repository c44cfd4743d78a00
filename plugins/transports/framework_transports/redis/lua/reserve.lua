-- Takes up to ARGV[2] messages and leases them to one consumer, atomically.
-- KEYS, for each queue: its lists in the order of priority, the consumer's lease hash, the queue's set of deadlines.
-- ARGV: consumer, limit, lease (ms), next sequence number, lists per queue, first queue (0-based), 1 to share fairly, 1 to list the empty queues.
-- Returns a list of {queue (0-based), list (0-based), payload, ...}; the sequence numbers follow the order of the payloads.
-- In front of it, if asked for, is a list of the queues (0-based) in which nothing waited.
local consumer, limit, seq = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
local lists, first, fair = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1'
local width = lists + 2
local queues = #KEYS / width
local taken, touched = {}, {}

local function take(queue, list, count)
  local base = queue * width
  -- A server that is out of memory refuses a script whose first write may need memory, but accepts the writes after a first one that needs none.
  -- Moving messages needs no memory, and consumers must be able to empty a full server: so the first write is a deletion of nothing.
  redis.call('HDEL', KEYS[base + lists + 1], '')
  local key = KEYS[base + list]
  local values = redis.call('LRANGE', key, -count, -1)
  local group, fields = {queue, list - 1}, {}
  for index = #values, 1, -1 do
    group[#group + 1] = values[index]
    fields[#fields + 1] = string.format('%.0f:%d', seq, list - 1)
    fields[#fields + 1] = values[index]
    seq = seq + 1
    -- Lua's stack holds a few thousand arguments.
    if #fields == 1000 then
      redis.call('HSET', KEYS[base + lists + 1], unpack(fields))
      fields = {}
    end
  end
  if #fields > 0 then
    redis.call('HSET', KEYS[base + lists + 1], unpack(fields))
  end
  -- Trimmed last: if the server refuses the write above, no message is lost.
  redis.call('LTRIM', key, 0, -count - 1)
  taken[#taken + 1] = group
  touched[queue] = true
end

-- All lengths are read first: a key that is not a list must stop the script before it changes anything.
local lengths, empty = {}, {}
for queue = 0, queues - 1 do
  local sum = 0
  for list = 1, lists do
    local length = redis.call('LLEN', KEYS[queue * width + list])
    lengths[queue * width + list] = length
    sum = sum + length
  end
  if sum == 0 then
    empty[#empty + 1] = queue
  end
end
if ARGV[8] == '1' then
  taken[1] = empty
end

for list = 1, lists do
  local open, granted = {}, {}
  for turn = 0, queues - 1 do
    local queue = (first + turn) % queues
    local waiting = lengths[queue * width + list]
    if waiting > 0 then
      open[#open + 1] = {queue, waiting, 0}
      granted[#granted + 1] = open[#open]
    end
  end
  while limit > 0 and #open > 0 do
    local share = limit
    if fair then
      share = math.max(1, math.floor(limit / #open))
    end
    local still = {}
    for _, entry in ipairs(open) do
      local count = math.min(share, entry[2] - entry[3], limit)
      entry[3] = entry[3] + count
      limit = limit - count
      if entry[3] < entry[2] then
        still[#still + 1] = entry
      end
    end
    open = still
  end
  for _, entry in ipairs(granted) do
    if entry[3] > 0 then
      take(entry[1], list, entry[3])
    end
  end
  if limit == 0 then
    break
  end
end

local deadline = string.format('%.0f', server_time() + ARGV[3])
for queue, _ in pairs(touched) do
  redis.call('ZADD', KEYS[queue * width + width], deadline, consumer)
end
return taken
