-- Binds queues that do not expire.
--
-- KEYS  for each: table of the exchange, its bindings that do not expire
-- ARGV  their bindings

-- So that a server whose memory is full lets a worker start, which empties it.
redis.call('SREM', KEYS[1], '')

for place, binding in ipairs(ARGV) do
  redis.call('SADD', KEYS[2 * place - 1], binding)
  redis.call('SADD', KEYS[2 * place], binding)
end
