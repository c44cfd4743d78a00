-- Parks messages that are on loan: from the lease they go to a hash, and to the sorted set of when they come due.
-- KEYS: the consumer's lease hash, the queue's set of parked messages, its shelf.
-- ARGV: consumer, how many may share a key, then field, delay (ms), key ('' for none), ...
-- On the shelf it is <list>:<payload>. Its field is the key; for others with the same key the key, a line break, and a number; and without a key,
-- or when all these are taken, a line break and <sequence>:<consumer>. So two messages that are alike stay two. The field that is a line break has the
-- highest of these numbers, once there is one.
-- Returns how many were still on loan.
-- Lets a full server take the writes below: see reserve.lua.
redis.call('HDEL', KEYS[1], '')
local now = server_time()
local count = 0
for index = 3, #ARGV, 3 do
  local payload = redis.call('HGET', KEYS[1], ARGV[index])
  if payload then
    local seq, list = string.match(ARGV[index], '^(%d+):(%d+)$')
    local key, value = ARGV[index + 2], list .. ':' .. payload
    local field, put = key, 0
    if key ~= '' then
      put = redis.call('HSETNX', KEYS[3], key, value)
      for number = 1, ARGV[2] - 1 do
        if put == 1 then
          break
        end
        field = key .. '\n' .. number
        put = redis.call('HSETNX', KEYS[3], field, value)
        if put == 1 and number > tonumber(redis.call('HGET', KEYS[3], '\n') or 0) then
          redis.call('HSET', KEYS[3], '\n', number)
        end
      end
    end
    if put == 0 then
      field = '\n' .. seq .. ':' .. ARGV[1]
      redis.call('HSET', KEYS[3], field, value)
    end
    redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[index + 1]), field)
    redis.call('HDEL', KEYS[1], ARGV[index])
    count = count + 1
  end
end
return count
