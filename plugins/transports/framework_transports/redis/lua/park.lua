-- Parks leased messages: moves them from the lease to the queue's hash of parked messages, and their due times to its sorted set.
-- KEYS: the consumer's lease hash, the queue's set of parked messages, their hash.
-- ARGV: consumer, how many may share a key, then field, delay (ms), key ('' for none), ...
-- A value of the hash is <list>:<payload>. Its field is the key; a further message with that key gets <key>\n<number>; a message without a key, or
-- beyond the limit, gets \n<sequence>:<consumer>. So equal messages stay apart. The field \n holds the highest number used, if any.
-- Returns how many were still leased.
-- Makes a full server accept the writes below: see reserve.lua.
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
