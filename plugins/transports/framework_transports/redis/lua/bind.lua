-- Binds a queue that expires, and extends the deadline of its exchange's bindings.
-- KEYS: the exchange's bindings, the deadlines of all exchanges. ARGV: member, exchange, lifetime (ms).
local deadline = server_time() + ARGV[3]
redis.call('SADD', KEYS[1], ARGV[1])
local known = redis.call('ZSCORE', KEYS[2], ARGV[2])
if not known or tonumber(known) < deadline then
  redis.call('ZADD', KEYS[2], string.format('%.0f', deadline), ARGV[2])
end
return 1
