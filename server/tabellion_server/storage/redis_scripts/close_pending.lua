-- Drops a proposal, or only one that is past its expiry, and writes what became of it.
--
-- KEYS: 4 pending, 5 audit, 6 audits, 7 outbox.
local pending, audit, audits, outbox = KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local token, _, _, _ = take(), take(), take(), take()
local id, entry, expired_at = take(), take(), take()

local function answer(word, more)
  return {word, {}, redis.call('HGETALL', outbox), more}
end

if was_done(token) then
  return answer('done')
end
if is_late(token) or tonumber(token) <= held('fence') then
  return {'fenced'}
end
local found = redis.call('HGET', pending, id)
if not found then
  return answer('nothing')
end
local _, expires_at, versions = proposal(found)
if expired_at ~= '' then
  if is_above(expires_at, expired_at) then
    return answer('nothing')
  end
  local told = cjson.decode(entry)
  told[4] = versions
  entry = cjson.encode(told)
end
redis.call('HDEL', pending, id)
add_row(audit, audits, id, token, entry)
note_done(token)
return answer('done', versions)
