-- Puts everything that a consumer has on loan from one queue back to the front, as it is, and forgets the lease.
-- KEYS: the consumer's lease hash, the queue's set of deadlines, the queue's lists. ARGV: consumer.
-- Returns how many messages that were.
-- Lets a full server take the writes below: see reserve.lua.
redis.call('HDEL', KEYS[1], '')
return give_back(ARGV[1], KEYS[1], KEYS[2], 3)
