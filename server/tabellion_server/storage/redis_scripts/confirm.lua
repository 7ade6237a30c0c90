-- Writes something to a GUN that is there: who waits for the replicas to have it, waits for all before.
if redis.call('EXISTS', kept) == 1 then
  redis.call('HINCRBY', kept, 'repeated', 1)
end
return 1
