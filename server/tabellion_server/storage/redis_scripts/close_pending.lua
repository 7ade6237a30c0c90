-- Drops a proposal, or only one that is past its expiry, and writes what became of it.
--
-- KEYS: 4 pending, 5 audit, 6 audits.
local pending, audit, audits = KEYS[4], KEYS[5], KEYS[6]
local name, id, entry, expired_at = take(), take(), take(), take()

if was_done(name) then
  return {'done'}
end
local found = redis.call('HGET', pending, id)
if not found then
  return {'nothing'}
end
local _, expires_at, versions = proposal(found)
if expired_at ~= '' then
  if is_above(expires_at, expired_at) then
    return {'nothing'}
  end
  local told = cjson.decode(entry)
  told[4] = versions
  entry = cjson.encode(told)
end
redis.call('HDEL', pending, id)
write_audit(audit, audits, id, entry)
note_done(name)
return {'done', versions}
