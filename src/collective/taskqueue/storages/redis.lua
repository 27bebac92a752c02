-- Every transition of a Redis queue, each one atomic. The keys are described in redis.py.
--
-- KEYS[1]  the prefix of the queue
-- ARGV[1]  the operation, ARGV[2] the settings as JSON, ARGV[3...] its arguments
--
-- Answers what the operation returns, and the news: what has happened besides. Keys are made
-- from the prefix, so a queue lives on one server, not in a cluster. Nothing in a key is
-- trusted: what is not ours is moved aside, and everything else goes on.

local P = KEYS[1]
local settings = cjson.decode(ARGV[2])

local FIELDS = 9        -- strings a staged task consists of
local ENDS = 9          -- strings the end of an attempt consists of
local MARKERS = 16      -- most wake-up markers that lie about
local PORTION = 50      -- most tasks one call changes: few enough for 5 ms
local LOOKS = 200       -- most entries one call passes over to find tasks that may run
local CHUNK = 1000      -- most values in one command: the stack of Lua is short
local HISTORY = 100     -- attempts and changes that are kept
local ALIASES = 1000    -- skipped tasks whose ids are kept for the one that waits
local STRANGERS = 10000 -- entries kept that are no tasks
local HOUR = 3600       -- seconds that a consumer is remembered
local WEEK = 604800     -- seconds that a record is kept that cannot be read
local WEIGHT = 500      -- bytes of a record besides what may be large
local LARGEST = 2 ^ 52  -- largest number that is given out
local FAR = 1e14        -- seconds since the epoch: nothing falls due later

local STATES = { queued = true, scheduled = true, running = true,
                 succeeded = true, failed = true, cancelled = true }
local ORDER = { 'queued', 'scheduled', 'running', 'succeeded', 'failed', 'cancelled' }
local FINISHED = { succeeded = true, failed = true, cancelled = true }

local news = {}
local function tell(kind, id, detail) table.insert(news, { kind, id, detail or '' }) end

-- what is not to be trusted

local function move_aside(key)
  local name = string.gsub(string.sub(key, #P + 1), '^[.:]', '')
  local to = P .. ':broken:' .. (name == '' and 'queue' or name)
  redis.call('RENAME', key, to)
  tell('moved', key, to)
  return to
end

local function mended(command, key, ...)
  -- A key of the wrong kind is not ours. The second time it is not there.
  local other = command == 'RPOPLPUSH' and ...
  if other and redis.call('TYPE', other).ok ~= 'list' and redis.call('EXISTS', other) == 1 then
    move_aside(other)
  end
  local kind = redis.call('TYPE', key).ok
  if not other or (kind ~= 'list' and kind ~= 'none') then move_aside(key) end
  return redis.call(command, key, ...)
end

local function call(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) == 'table' and reply.err and string.find(reply.err, 'WRONGTYPE', 1, true) then
    return mended(command, key, ...)
  end
  -- Once more, only to raise it.
  if type(reply) == 'table' and reply.err then return redis.call(command, key, ...) end
  return reply
end

local function num(value, otherwise)
  local number = tonumber(value or nil)
  -- Neither NaN nor infinite.
  if number and number > -1e15 and number < 1e15 then return number end
  return otherwise
end

local time = redis.call('TIME')
local now = settings.now or tonumber(time[1]) + tonumber(time[2]) / 1000000

local function text(number) return string.format('%.6f', number) end
local function task_key(id) return P .. ':task:' .. id end
local function get(id, field) return call('HGET', task_key(id), field) end
local function set(id, ...) call('HSET', task_key(id), ...) end
local function unset(id, ...) call('HDEL', task_key(id), ...) end
local function fields(id, ...) return unpack(call('HMGET', task_key(id), ...)) end

local function line_of(state)
  if state == '' then return P .. ':all' end
  return FINISHED[state] and P .. ':finished:' .. state or P .. ':' .. state
end

local function lines_of(state, user, person)
  local lines = { line_of(state) }
  if user then table.insert(lines, P .. ':of:' .. state .. ':' .. user) end
  if person then table.insert(lines, P .. ':person:' .. state .. ':' .. person) end
  return lines
end

local function renumber()
  -- The number was lost or spoilt; what stands in the lines was numbered by it.
  local most = 0
  for _, state in ipairs({ '', 'queued', 'running', 'succeeded', 'failed', 'cancelled' }) do
    local last = call('ZREVRANGEBYSCORE', line_of(state), LARGEST, 0, 'WITHSCORES', 'LIMIT', 0, 1)
    most = math.max(most, num(last[2], 0))
  end
  most = math.max(most, num(call('ZREVRANGE', P .. ':staged', 0, 0, 'WITHSCORES')[2], 0))
  local front = call('ZRANGEBYSCORE', line_of('queued'), -LARGEST, 0, 'WITHSCORES', 'LIMIT', 0, 1)
  most = math.max(most, -num(front[2], 0)) + 1
  call('SET', P .. ':number', string.format('%d', most))
  return most
end

local function next_number()
  local number = redis.pcall('INCR', P .. ':number')
  if type(number) == 'table' then
    if string.find(number.err, 'WRONGTYPE', 1, true) then move_aside(P .. ':number') end
    return renumber()
  end
  if number > 1 and number < LARGEST then return number end
  return renumber()
end

local function wake(number)
  local missing = math.min(number, MARKERS) - call('LLEN', P .. ':wake')
  for _ = 1, missing do call('LPUSH', P .. ':wake', '1') end
end

-- states: nothing else knows in which lines a task stands

local function changed(changes, state)
  local excess = #changes - HISTORY * 30
  if excess > 0 then
    local last = string.find(changes, ';', math.max(excess, 30), true) or #changes
    changes = string.sub(changes, last + 1)
  end
  return changes .. state .. ' ' .. text(now) .. ';'
end

local function resize(id, size)
  -- How many bytes a finished record takes, and all of them together.
  local before, sum = num(call('HGET', P .. ':sizes', id), 0), num(call('GET', P .. ':bytes'))
  if not sum then
    sum = 0
    for _, other in ipairs(call('HVALS', P .. ':sizes')) do sum = sum + num(other, 0) end
  end
  if size > 0 then
    call('HSET', P .. ':sizes', id, size)
  else
    call('HDEL', P .. ':sizes', id)
  end
  call('SET', P .. ':bytes', string.format('%d', math.max(sum + size - before, 0)))
end

local function weight(id)
  local size = WEIGHT
  for _, field in ipairs({ 'body', 'payload', 'reason', 'progress', 'last' }) do
    size = size + call('HSTRLEN', task_key(id), field)
  end
  for _, line in ipairs(call('LRANGE', P .. ':history:' .. id, 0, -1)) do size = size + #line end
  return size
end

local function leave(id, state, user, person, place)
  if state and not STATES[state] then
    -- Nobody knows where it stands.
    for other in pairs(STATES) do leave(id, other, user, person, place) end
    return
  end
  local member = state == 'scheduled' and place or id
  for _, line in ipairs(lines_of(state, user, person)) do call('ZREM', line, member) end
  if FINISHED[state] then
    resize(id, 0)
    call('ZREM', P .. ':expiry', id)
  end
end

local function enter(id, state, score, reason, place)
  local before, changes, user, person, old =
    fields(id, 'state', 'changes', 'user', 'person', 'place')
  if before then leave(id, before, user, person, old) end
  set(id, 'state', state, 'reason', reason or '', 'changes', changed(changes or '', state))
  unset(id, 'token', 'place')
  if place then set(id, 'place', place) end
  for _, line in ipairs(lines_of(state, user, person)) do call('ZADD', line, score, place or id) end
end

-- keys, and who waits

local function ids_of_key(hash, key, one, another)
  -- The tasks of a key that are in one of two states; whatever else stands there is gone.
  local value = call('HGET', hash, key)
  local ids, kept = {}, {}
  for id in string.gmatch(value or '', '%S+') do table.insert(ids, id) end
  for _, id in ipairs(ids) do
    local found = redis.pcall('HGET', task_key(id), 'state')
    if found == one or found == another then table.insert(kept, id) end
  end
  if value and #kept == 0 then call('HDEL', hash, key) end
  return kept
end

local function join_key(hash, key, ids, id)
  -- More than one only if one has come back while another waits.
  for _, other in ipairs(ids) do
    if other == id then return end
  end
  table.insert(ids, id)
  call('HSET', hash, key, table.concat(ids, ' '))
end

local function part_key(hash, key, ids, id)
  local rest = {}
  for _, other in ipairs(ids) do
    if other ~= id then table.insert(rest, other) end
  end
  if #rest > 0 then
    call('HSET', hash, key, table.concat(rest, ' '))
  else
    call('HDEL', hash, key)
  end
  return #rest
end

local function waiting_of(key) return ids_of_key(P .. ':keys', key, 'queued', 'scheduled') end
local function running_of(key) return ids_of_key(P .. ':running-keys', key, 'running') end
local function free_key(key, id) part_key(P .. ':keys', key, waiting_of(key), id) end

local function claim_key(id)
  local key = get(id, 'key')
  if key then join_key(P .. ':keys', key, waiting_of(key), id) end
end

local function queue(id, front)
  local number = next_number()
  enter(id, 'queued', front and -number or number)
  call(front and 'RPUSH' or 'LPUSH', P, id)
  claim_key(id)
end

local function schedule(id, due, reason)
  -- The number decides between those that fall due at the same moment.
  local place = string.format('%016d:%s', next_number(), id)
  enter(id, 'scheduled', text(due), reason, place)
  claim_key(id)
end

local function withdraw(id, popped)
  -- An entry in the middle of the list is left there as a ghost: to look for it would take
  -- as long as the list is. Ghosts are skipped when their turn comes.
  local state, key = fields(id, 'state', 'key')
  if state ~= 'scheduled' and not popped then
    if key and call('HGET', P .. ':parked', key) == id then
      call('HDEL', P .. ':parked', key)
    else
      call('HSET', P .. ':ghosts', id, num(call('HGET', P .. ':ghosts', id), 0) + 1)
    end
  end
  if key then free_key(key, id) end
end

local function exorcise(id)
  local ghosts = num(call('HGET', P .. ':ghosts', id))
  if not ghosts then return false end
  if ghosts > 1 then
    call('HSET', P .. ':ghosts', id, ghosts - 1)
  else
    call('HDEL', P .. ':ghosts', id)
  end
  return true
end

local function forget_names(id)
  for _, alias in ipairs(call('LRANGE', P .. ':aliases:' .. id, 0, -1)) do
    call('HDEL', P .. ':aliases', alias)
  end
end

local function forget(id)
  local state, user, person, place = fields(id, 'state', 'user', 'person', 'place')
  leave(id, state or 'unknown', user, person, place)
  for _, line in ipairs(lines_of('', user, person)) do call('ZREM', line, id) end
  forget_names(id)
  call('DEL', task_key(id), P .. ':history:' .. id, P .. ':aliases:' .. id)
end

local function forget_finished(id, line)
  -- A list that is damaged may name a task that still waits or runs.
  local state = get(id, 'state')
  if FINISHED[state] or not STATES[state] then forget(id) end
  call('ZREM', line, id)
end

local function oldest_finished()
  local first, least, its
  for state in pairs(FINISHED) do
    local found = call('ZRANGE', line_of(state), 0, 0, 'WITHSCORES')
    local number = num(found[2], -1)
    if found[1] and (not least or number < least) then
      first, least, its = found[1], number, line_of(state)
    end
  end
  return first, its
end

local function tidy(limit)
  -- Forgets what was kept long enough, and what is too much; whether there may be more.
  local old = call('ZRANGEBYSCORE', P .. ':expiry', '-inf', text(now), 'LIMIT', 0, limit)
  for _, id in ipairs(old) do forget_finished(id, P .. ':expiry') end
  local number = #old
  while number < limit and num(call('GET', P .. ':bytes'), 0) > settings.max_finished_bytes do
    local id, line = oldest_finished()
    if not id then
      call('DEL', P .. ':bytes', P .. ':sizes')
      break
    end
    -- Who is told of the end can look at it, however large it is.
    if num(get(id, 'ended'), 0) + settings.linger > now then break end
    forget_finished(id, line)
    number = number + 1
  end
  return number >= limit
end

local function count_end(state)
  local minute = math.floor(now / 60)
  local field = string.format('%d %s', minute, state)
  local number = num(call('HGET', P .. ':ended', field), 0) + 1
  call('HSET', P .. ':ended', field, number)
  if number > 1 then return end
  for _, other in ipairs(call('HKEYS', P .. ':ended')) do
    local its = num(string.match(other, '^%d+'), 0)
    if its <= minute - 60 then call('HDEL', P .. ':ended', other) end
  end
end

local function hear_of(consumer, process)
  if call('ZADD', P .. ':consumers', text(now), consumer .. ' ' .. process) == 1 then
    call('ZREMRANGEBYSCORE', P .. ':consumers', '-inf', text(now - HOUR))
  end
end

local function conclude(id, state, reason)
  enter(id, state, next_number(), reason)
  -- What has succeeded cannot be retried.
  if state == 'succeeded' then unset(id, 'payload') end
  count_end(state)
  set(id, 'ended', text(now))
  resize(id, weight(id))
  local keep = state == 'succeeded' and settings.keep_succeeded or settings.keep_failed
  keep = math.max(num(get(id, 'keep'), keep), settings.linger)
  call('ZADD', P .. ':expiry', text(now + keep), id)
  tidy(PORTION)
  local surplus = math.min(call('ZCARD', line_of(state)) - settings.max_finished, PORTION)
  if surplus > 0 then
    local line = line_of(state)
    for _, old in ipairs(call('ZRANGE', line, 0, surplus - 1)) do forget_finished(old, line) end
  end
end

local function see(id, tid)
  -- Whoever runs the task must see that transaction, too. The hex digits of transaction ids
  -- sort as they do; the order in which batches are promoted may be another.
  if tid and tid ~= '' and tid > (get(id, 'tid') or '') then set(id, 'tid', tid) end
end

local function supersede(id, newer, quiet)
  see(newer, get(id, 'tid'))
  conclude(id, 'cancelled', 'replaced by ' .. newer)
  if not quiet then tell('cancelled', id, 'replaced by ' .. newer) end
end

local function newer(id)
  local key, mode = fields(id, 'key', 'mode')
  if not key or mode == 'skip' then return nil end
  local ids = waiting_of(key)
  return ids[#ids]
end

local function is_there(id)
  return call('EXISTS', task_key(id)) == 1 or call('HEXISTS', P .. ':aliases', id) == 1
end

local function is_known(id)
  if not is_there(id) then return false end
  tell('known', id)
  return true
end

local function skip(id, earlier, tid)
  local names = P .. ':aliases:' .. earlier
  call('HSET', P .. ':aliases', id, earlier)
  if call('RPUSH', names, id) > ALIASES then call('HDEL', P .. ':aliases', call('LPOP', names)) end
  see(earlier, tid)
  tell('skipped', id, earlier)
end

local function create(id, body, payload, key, mode, user, person, keep, tid)
  set(id, 'body', body)
  if payload ~= '' then set(id, 'payload', payload) end
  if key ~= '' then set(id, 'key', key, 'mode', mode) end
  if keep ~= '' then set(id, 'keep', keep) end
  if tid ~= '' then set(id, 'tid', tid) end
  if person ~= '' then set(id, 'user', user, 'person', person) end
  local number = next_number()
  for _, line in ipairs(lines_of('', person ~= '' and user, person ~= '' and person)) do
    call('ZADD', line, number, id)
  end
end

local function admit(tid, id, body, payload, due, key, mode, user, person, keep)
  if is_known(id) then return end
  local same = key ~= '' and waiting_of(key) or {}
  if #same > 0 and mode == 'skip' then
    skip(id, same[#same], tid)
    return
  end
  create(id, body, payload, key, mode, user, person, keep, tid)
  for _, earlier in ipairs(same) do
    withdraw(earlier)
    supersede(earlier, id)
  end
  local moment = num(due, 0)
  if moment > now then
    schedule(id, moment)
  else
    queue(id)
  end
end

local function unpark(id)
  -- Its turn had come while its key ran, so only what came back to the front since then,
  -- or was unparked just before, can be older.
  local turn, older = num(call('ZSCORE', line_of('queued'), id), 0), {}
  for _ = 1, PORTION do
    local other = call('LINDEX', P, -1)
    if not other then break end
    local its = num(call('ZSCORE', line_of('queued'), other))
    if its and its > turn then break end
    call('RPOP', P)
    if not exorcise(other) then table.insert(older, other) end
  end
  call('RPUSH', P, id)
  for i = #older, 1, -1 do call('RPUSH', P, older[i]) end
end

local function free_running(id)
  -- Its key is no longer among those that run; by id, because the record may be lost.
  local key = call('HGET', P .. ':running-key', id)
  if not key then return end
  call('HDEL', P .. ':running-key', id)
  if part_key(P .. ':running-keys', key, running_of(key), id) > 0 then return end
  local parked = call('HGET', P .. ':parked', key)
  if parked then
    call('HDEL', P .. ':parked', key)
    unpark(parked)
    wake(1)
  end
end

local function release(id)
  -- A task runs no more; what becomes of it is said next.
  local consumer = get(id, 'consumer')
  if consumer then call('LREM', P .. '.' .. consumer, 1, id) end
  call('ZREM', P .. ':leases', id)
  free_running(id)
end

local function remember(id, attempt)
  local line = P .. ':history:' .. id
  if call('RPUSH', line, attempt) > HISTORY then call('LTRIM', line, -HISTORY, -1) end
end

-- what is broken

local function named(entry)
  -- What is no id may be a task of version 1, with the credentials of its user in it.
  local is_id = #entry == 36 and string.find(entry, '^%x+%-%x+%-%x+%-%x+%-%x+$')
  if is_id then return 'task ' .. entry end
  return 'entry of ' .. #entry .. ' bytes, sha1 ' .. string.sub(redis.sha1hex(entry), 1, 12)
end

local function take_out(id)
  -- There is no record that could be read, wherever the id was found.
  for _, heard in ipairs(call('ZRANGE', P .. ':consumers', 0, CHUNK)) do
    call('LREM', P .. '.' .. (string.match(heard, '^%S+') or heard), 0, id)
  end
  call('ZREM', P .. ':leases', id)
  call('HDEL', P .. ':ghosts', id)
  free_running(id)
  if call('EXISTS', task_key(id)) == 1 then call('EXPIRE', move_aside(task_key(id)), WEEK) end
  forget(id)
  tell('broken', named(id), 'its record is missing, taken out of the queue')
end

local function is_sound(id)
  -- Whether there is a record in a known state. Without one the id is taken out of all lines;
  -- one whose state cannot be read has failed.
  local found = redis.pcall('HMGET', task_key(id), 'state', 'body')
  local state = not found.err and found[1]
  if STATES[state] then return state end
  if not state and not found[2] then
    take_out(id)
    return false
  end
  release(id)
  local reason = 'its record is damaged: nobody knows its state'
  conclude(id, 'failed', reason)
  tell('failed', id, reason)
  return false
end

local function stray(id, state)
  -- It stands in the lines of a state that it is not in.
  call('ZREM', P .. ':leases', id)
  leave(id, state, fields(id, 'user', 'person', 'place'))
  tell('broken', named(id), 'it is not ' .. state .. ', taken out of that list')
end

local function ripen()
  local due = call('ZRANGEBYSCORE', P .. ':scheduled', '-inf', text(now), 'LIMIT', 0, PORTION)
  for _, place in ipairs(due) do
    local id = string.sub(place, 18)
    local state = is_sound(id)
    if state == 'scheduled' then
      queue(id)
    elseif state then
      tell('broken', named(id), 'it is not scheduled, taken out of that list')
    end
    call('ZREM', P .. ':scheduled', place)
  end
  if #due > 0 then wake(#due) end
end

local function is_pointless(id)
  -- A task that was released, and is not to run again: then it is cancelled.
  local replaced = newer(id)
  if get(id, 'cancel') then
    conclude(id, 'cancelled', 'cancelled while running')
    tell('cancelled', id, 'cancelled while running')
  elseif replaced then
    supersede(id, replaced)
  else
    return false
  end
  return true
end

local function lose(id)
  local state = is_sound(id)
  if state ~= 'running' then
    if state then stray(id, 'running') end
    return
  end
  release(id)
  local number, consumer, started, lost = fields(id, 'number', 'consumer', 'started', 'lost')
  started, lost = num(started, now), num(lost, 0) + 1
  remember(id, cjson.encode({
    number = num(number, 1), consumer = consumer or '', started = started,
    seconds = now - started, reason = 'its process was lost',
  }))
  set(id, 'lost', lost)
  if is_pointless(id) then return end
  if lost >= settings.max_deliveries then
    local reason = 'its process was lost ' .. lost .. ' times'
    conclude(id, 'failed', reason)
    tell('failed', id, reason)
  else
    queue(id, true)
    tell('recovered', id, consumer or '')
    wake(1)
    return true
  end
end

local function recover(ids)
  -- The one reserved last first, so that the oldest ends up at the very front; a portion.
  local numbers = {}
  for _, id in ipairs(ids) do numbers[id] = num(call('ZSCORE', line_of('running'), id), 0) end
  table.sort(ids, function(a, b) return numbers[a] > numbers[b] end)
  local back = {}
  for i = 1, math.min(#ids, PORTION) do
    if lose(ids[i]) then table.insert(back, ids[i]) end
  end
  return #ids > PORTION and 1 or 0, back
end

local function expired()
  if call('ZCARD', P .. ':leases') ~= call('ZCARD', line_of('running')) then
    -- What runs without a lease would never be found; what does not run has none.
    for _, id in ipairs(call('ZRANGE', line_of('running'), 0, CHUNK)) do
      local state = not call('ZSCORE', P .. ':leases', id) and is_sound(id)
      if state == 'running' then
        call('ZADD', P .. ':leases', text(now + settings.lease), id)
      elseif state then
        stray(id, 'running')
      end
    end
    for _, id in ipairs(call('ZRANGE', P .. ':leases', 0, CHUNK)) do
      if not call('ZSCORE', line_of('running'), id) then
        local state = is_sound(id)
        if state == 'running' then
          enter(id, state, next_number())
        elseif state then
          stray(id, 'running')
        end
      end
    end
  end
  return call('ZRANGEBYSCORE', P .. ':leases', '-inf', text(now), 'LIMIT', 0, LOOKS)
end

local function holds(id, token)
  local found = redis.pcall('HMGET', task_key(id), 'state', 'token')
  return found[1] == 'running' and found[2] == token
end

local function lease_of(id)
  local body, payload, token, number, counted, tid =
    fields(id, 'body', 'payload', 'token', 'number', 'counted', 'tid')
  local expires = num(call('ZSCORE', P .. ':leases', id), now)
  return { id, body or '', payload or '', token, tostring(num(number, 1)),
           tostring(num(counted, 0)), text(expires), tid or '' }
end

local RECORD = { 'state', 'key', 'mode', 'lost' }

local function record_of(id)
  local found, record = redis.pcall('HMGET', task_key(id), unpack(RECORD)), {}
  if found.err then return record end
  for i, value in ipairs(found) do record[RECORD[i]] = value or nil end
  return record
end

local function mend_moments()
  -- What never falls due would wait for ever, and under a lease without an end run for ever.
  local function far(line)
    return ipairs(call('ZRANGEBYSCORE', line, FAR, '+inf', 'LIMIT', 0, PORTION))
  end
  for _, place in far(P .. ':scheduled') do
    local id = string.sub(place, 18)
    if is_sound(id) == 'scheduled' then
      local reason, key = 'its record is damaged: nobody knows when it is due', get(id, 'key')
      if key then free_key(key, id) end
      conclude(id, 'failed', reason)
      tell('failed', id, reason)
    end
    call('ZREM', P .. ':scheduled', place)
  end
  for _, id in far(P .. ':leases') do
    call('ZADD', P .. ':leases', text(now + settings.lease), id)
  end
end

local function soonest()
  -- Seconds until something falls due or a lease expires, empty if nothing does.
  local least
  for _, line in ipairs({ P .. ':scheduled', P .. ':leases' }) do
    local first = num(call('ZRANGE', line, 0, 0, 'WITHSCORES')[2])
    if first then least = math.min(least or math.huge, math.max(first - now, 0.001)) end
  end
  return least and text(least) or ''
end

local function start(id, record, consumer, process, token, seconds)
  local key = record.key
  if key then
    free_key(key, id)
    join_key(P .. ':running-keys', key, running_of(key), id)
    call('HSET', P .. ':running-key', id, key)
  end
  enter(id, 'running', next_number())
  local number = num(get(id, 'number'), 0) + 1
  set(id, 'token', token, 'consumer', consumer, 'process', process, 'started', text(now),
      'number', number)
  if number > 1 then unset(id, 'progress') end
  call('ZADD', P .. ':leases', text(now + seconds), id)
  return lease_of(id)
end

-- operations

local operation = {}

function operation.stage(batch, witness)
  local key = P .. ':batch:' .. batch
  call('DEL', key)
  -- Their ids first and together: who looks for what is in doubt need not load the tasks.
  local ids = {}
  for i = 5, #ARGV, FIELDS do table.insert(ids, ARGV[i]) end
  call('RPUSH', key, table.concat(ids, ' '))
  for i = 5, #ARGV, CHUNK do
    call('RPUSH', key, unpack(ARGV, i, math.min(i + CHUNK - 1, #ARGV)))
  end
  call('ZADD', P .. ':staged', next_number(), batch)
  call('HSET', P .. ':witness', batch, text(now) .. ' ' .. witness)
end

function operation.discard(batch)
  call('DEL', P .. ':batch:' .. batch)
  call('ZREM', P .. ':staged', batch)
  call('HDEL', P .. ':witness', batch)
end

local function settle(batch)
  operation.discard(batch)
  call('SET', P .. ':promoted:' .. batch, '1', 'EX', settings.remember)
end

local function staged(batch)
  -- The strings of the tasks of a batch; of one that is damaged there are none.
  local key = P .. ':batch:' .. batch
  local found = call('LRANGE', key, 1, -1)
  if #found % FIELDS == 0 then return found end
  tell('moved', key, move_aside(key))
  operation.discard(batch)
  return {}
end

function operation.condemn(batch, reason)
  local found = staged(batch)
  for i = 1, #found, FIELDS do
    local id, body, payload, _, key, mode, user, person, keep = unpack(found, i, i + FIELDS - 1)
    if not is_known(id) then
      -- It stands in no line, so it keeps nothing from running.
      create(id, body, payload, key, mode, user, person, keep, '')
      enter(id, 'queued', 0)
      conclude(id, 'failed', reason)
      tell('failed', id, reason)
    end
  end
  -- Whoever promotes it later comes too late: a person decides now.
  if #found > 0 then settle(batch) end
end

function operation.promote(batch, tid)
  -- 1: promoted, 0: was promoted before, -1: the batch is lost, give me the tasks.
  if call('EXISTS', P .. ':promoted:' .. batch) == 1 then return 0 end
  local found = staged(batch)
  if #found == 0 then
    for i = 5, #ARGV do table.insert(found, ARGV[i]) end
    if #found == 0 then return -1 end
    -- Promoted so long ago that it is not remembered, but its tasks are.
    if is_there(found[1]) then return 0 end
  end
  for i = 1, #found, FIELDS do admit(tid, unpack(found, i, i + FIELDS - 1)) end
  settle(batch)
  wake(#found / FIELDS)
  return 1
end

local function born()
  -- Whoever remembers another one knows that all else is gone, too.
  local found = call('GET', P .. ':born')
  if not found then
    found = text(now)
    call('SET', P .. ':born', found)
  end
  return found
end

local function reserved(mine, nonce, seconds)
  -- The oldest is at the right end. Nobody has renewed these, however long ago that was.
  local leases = {}
  for _, id in ipairs(call('LRANGE', mine, 0, -1)) do
    local token = record_of(id).state == 'running' and get(id, 'token') or ''
    if string.sub(token, 1, #nonce) == nonce then
      call('ZADD', P .. ':leases', text(now + seconds), id)
      table.insert(leases, 1, lease_of(id))
    end
  end
  return leases
end

local function put_aside(entry)
  -- Somebody else has pushed it, such as version 1, or the server has evicted its record.
  local name = P .. ':strangers'
  call('LPUSH', name, entry)
  call('LTRIM', name, 0, STRANGERS - 1)
  tell('stranger', named(entry), name)
end

local function relist()
  -- The list is empty, and some are queued: the list, or who is parked, was lost.
  local mine, lost = {}, {}
  -- Nor is there a ghost in it.
  call('DEL', P .. ':ghosts')
  local parked = call('HSCAN', P .. ':parked', 0, 'COUNT', CHUNK)[2]
  for i = 1, #parked, 2 do
    local key, id = parked[i], parked[i + 1]
    local record = record_of(id)
    if record.state == 'queued' and record.key == key and #running_of(key) > 0 then
      mine[id] = true
    else
      call('HDEL', P .. ':parked', key)
    end
  end
  for _, id in ipairs(call('ZRANGE', line_of('queued'), 0, CHUNK)) do
    local state = not mine[id] and is_sound(id)
    if state == 'queued' then
      table.insert(lost, id)
    elseif state then
      stray(id, 'queued')
    end
  end
  for _, id in ipairs(lost) do call('LPUSH', P, id) end
  return #lost > 0
end

local function take(consumer, process, nonce, limit, seconds, careful)
  -- Returns leases, and whether all that waits was looked at. With careful, a task whose
  -- process was lost before is taken alone: all that is lost with it again counts as lost.
  local leases, looked, mine = {}, 0, P .. '.' .. consumer
  while #leases < limit and looked < LOOKS do
    local id = call('RPOPLPUSH', P, mine)
    if not id then
      local parked = call('HLEN', P .. ':parked')
      local whole = #leases > 0 or call('ZCARD', line_of('queued')) == parked
      return leases, whole or not relist()
    end
    local record = record_of(id)
    local suspect = careful and record.lost
    looked = looked + 1
    if exorcise(id) or record.state ~= 'queued' then
      call('LREM', mine, 1, id)
      if not record.state then
        if call('EXISTS', task_key(id)) == 0 and not call('ZSCORE', line_of(''), id) then
          put_aside(id)
        else
          is_sound(id)
        end
      elseif not STATES[record.state] then
        is_sound(id)
      end
    elseif record.key and record.mode == 'after_running' and #running_of(record.key) > 0 then
      call('LREM', mine, 1, id)
      call('HSET', P .. ':parked', record.key, id)
    elseif suspect and #leases > 0 then
      call('LREM', mine, 1, id)
      call('RPUSH', P, id)
      break
    else
      local token = nonce .. '.' .. (#leases + 1)
      table.insert(leases, start(id, record, consumer, process, token, seconds))
      looked = looked - 1
      if suspect then break end
    end
  end
  return leases, looked < LOOKS
end
local function reserve(consumer, process, nonce, limit, seconds, careful)
  local leases, done = {}, true
  hear_of(consumer, process)
  recover(expired())
  ripen()
  tidy(PORTION)
  -- The reply to this very call was lost; its leases are not.
  if settings.again then leases = reserved(P .. '.' .. consumer, nonce, tonumber(seconds)) end
  if #leases == 0 and call('EXISTS', P .. ':paused') == 0 then
    local number, lease = tonumber(limit), tonumber(seconds)
    leases, done = take(consumer, process, nonce, number, lease, careful)
  end
  if #leases == 0 then
    mend_moments()
    return { done and soonest() or '0', leases, born() }
  end
  if call('LLEN', P) > 0 then wake(1) end
  return { '', leases, born() }
end

function operation.reserve(consumer, process, nonce, limit, seconds)
  return reserve(consumer, process, nonce, limit, seconds)
end

function operation.renew(id, token, seconds)
  if not holds(id, token) then return 0 end
  local consumer, process = fields(id, 'consumer', 'process')
  hear_of(consumer or '', process or '')
  call('ZADD', P .. ':leases', text(now + tonumber(seconds)), id)
  return 1
end

function operation.finish(id, token, state, reason, due, attempt, status, last, counts)
  -- The reply to this very call was lost.
  if settings.again and redis.pcall('HGET', task_key(id), 'done') == token then
    return get(id, 'state')
  end
  if not holds(id, token) then return '' end
  release(id)
  remember(id, attempt)
  set(id, 'status', status, 'last', last, 'done', token)
  unset(id, 'forgotten')
  local replaced = newer(id)
  if get(id, 'cancel') then
    state = 'cancelled'
    conclude(id, state, 'cancelled while running')
  elseif state ~= 'scheduled' then
    conclude(id, state, reason)
  elseif replaced then
    state = 'cancelled'
    supersede(id, replaced, true)
  else
    set(id, 'counted', num(get(id, 'counted'), 0) + counts)
    schedule(id, num(due, now), reason)
    wake(1)
  end
  return state
end

function operation.exchange(consumer, process, nonce, limit, seconds)
  local states = {}
  for i = 8, #ARGV, ENDS do
    table.insert(states, operation.finish(unpack(ARGV, i, i + ENDS - 1)))
  end
  local _, leases, since = unpack(reserve(consumer, process, nonce, limit, seconds, true))
  return { states, leases, since }
end

function operation.give_back(...)
  local held, waiting = { ... }, {}
  -- The last one first, so that the first one ends up at the very front.
  for i = #held - 1, 1, -2 do
    local id = held[i]
    if holds(id, held[i + 1]) then
      release(id)
      set(id, 'number', math.max(num(get(id, 'number'), 1) - 1, 0))
      unset(id, 'progress')
      if not is_pointless(id) then
        queue(id, true)
        table.insert(waiting, 1, id)
      end
    end
  end
  wake(#waiting)
  return waiting
end

function operation.report(id, token, progress)
  if not holds(id, token) then return 1 end
  if progress ~= '' then set(id, 'progress', progress) end
  return get(id, 'cancel') and 1 or 0
end

local function answer()
  local result = operation[ARGV[1]](unpack(ARGV, 3, math.min(#ARGV, 3 + CHUNK)))
  if type(result) == 'table' and result.err then return result end
  return { result or '', news }
end

-- What follows is asked for seldom: to make these functions takes longer than most calls do.
if operation[ARGV[1]] then return answer() end

local UNKNOWN = 'UNKNOWN '

local function known(id)
  -- The task that goes by this id, and its state; no state if there is none.
  id = call('HGET', P .. ':aliases', id) or id
  local found = redis.pcall('HMGET', task_key(id), 'state', 'body')
  if found.err or not (found[1] or found[2]) then return id end
  if num(call('ZSCORE', P .. ':expiry', id), math.huge) <= now then return id end
  return id, STATES[found[1]] and found[1] or 'unknown'
end

local function unknown(id) return redis.error_reply(UNKNOWN .. id) end

function operation.recover()
  -- Whether there are more, so that others are answered in between, and who waits again.
  return { recover(expired()) }
end

function operation.adopt(consumer, ...)
  -- The tasks of a consumer of that name whose processes are known to be dead.
  local dead, ids = {}, {}
  for _, process in ipairs({ ... }) do dead[process] = true end
  for _, id in ipairs(call('LRANGE', P .. '.' .. consumer, 0, -1)) do
    if record_of(id).state == 'running' and dead[get(id, 'process')] then table.insert(ids, id) end
  end
  return (recover(ids))
end

function operation.processes(consumer)
  local found, seen = {}, {}
  for _, id in ipairs(call('LRANGE', P .. '.' .. consumer, 0, -1)) do
    local process = record_of(id).state and get(id, 'process')
    if process and not seen[process] then
      seen[process] = true
      table.insert(found, process)
    end
  end
  return found
end

local function doubtful(batch)
  -- When it was staged, its witness, and its ids; of a batch that cannot be read, nothing.
  local ids = call('LINDEX', P .. ':batch:' .. batch, 0)
  local since, witness = string.match(call('HGET', P .. ':witness', batch) or '', '^(%S+) (.*)$')
  if ids and num(since) then return num(since), witness, ids end
  if ids then
    -- It may have been committed: a person decides.
    operation.condemn(batch, 'nobody knows whether its transaction was committed')
  end
  operation.discard(batch)
  tell('broken', 'batch ' .. named(batch), 'its record is damaged, taken out of what is staged')
end

function operation.in_doubt(age, after)
  -- Whether there are more, the place of the last one, and a page of those that are so old.
  local found, last = {}, after
  local line, limit = P .. ':staged', PORTION
  local page = call('ZRANGEBYSCORE', line, after, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
  for i = 1, #page, 2 do
    last = '(' .. page[i + 1]
    local since, witness, ids = doubtful(page[i])
    if since then
      if now - since < tonumber(age) then return { 0, last, found } end
      table.insert(found, { page[i], witness, text(now - since), ids })
    end
  end
  return { #page == 2 * limit and 1 or 0, last, found }
end

function operation.mend(process)
  -- Markers that are none are in the way of who waits, and of who wakes.
  call('LLEN', P .. ':wake')
  call('LLEN', P .. ':wake:' .. process)
end

function operation.length()
  return call('ZCARD', line_of('queued'))
end

local function whose(state, kind, who)
  return kind == '' and line_of(state) or P .. ':' .. kind .. ':' .. state .. ':' .. who
end

function operation.counts(kind, who)
  -- Nothing if there may be more whose time is over: ask again.
  if tidy(PORTION) then return end
  local found = {}
  for _, state in ipairs(ORDER) do
    table.insert(found, call('ZCARD', whose(state, kind, who)))
  end
  return found
end

local BRIEF = { 'state', 'reason', 'changes', 'consumer', 'body', 'number', 'progress', 'cancel',
                'status', 'forgotten', 'place', 'user', 'person' }

local function status_of(id, whole)
  -- Nothing if there is no record.
  local values, history, due = redis.pcall('HMGET', task_key(id), unpack(BRIEF)), '', ''
  if values.err or not (values[1] or values[5]) then return end
  if values[1] == 'scheduled' then due = call('ZSCORE', line_of('scheduled'), values[11] or '') end
  if whole then
    history = call('LRANGE', P .. ':history:' .. id, 0, -1)
    for _, field in ipairs({ 'payload', 'last' }) do table.insert(values, get(id, field)) end
  end
  return { id, values, history, due or '' }
end

function operation.get(id, whole)
  local name, state = known(id)
  if not state then return unknown(id) end
  return status_of(name, whole == '1')
end

local function belongs(values, state, kind, who)
  if state ~= '' and STATES[values[1]] and values[1] ~= state then return false end
  if kind == 'of' then return values[12] == who end
  return kind == '' or values[13] == who
end

function operation.tasks(state, kind, who, first, size)
  -- Nothing if there may be more whose time is over: ask again.
  if tidy(PORTION) then return end
  local line, found, start, rest = whose(state, kind, who), {}, tonumber(first), tonumber(size)
  while rest > 0 do
    local page, strays = call('ZRANGE', line, start, start + math.min(rest, CHUNK) - 1), 0
    for _, member in ipairs(page) do
      local id = state == 'scheduled' and string.sub(member, 18) or member
      local status = status_of(id)
      if status and belongs(status[2], state, kind, who) then
        table.insert(found, status)
      else
        call('ZREM', line, member)
        if status then
          tell('broken', named(id), 'it does not belong into a list, taken out of that')
        else
          take_out(id)
        end
        strays = strays + 1
      end
    end
    rest, start = rest - #page + strays, start + #page - strays
    if #page == 0 then break end
  end
  return found
end

function operation.consumers()
  local running, found = {}, {}
  for _, id in ipairs(call('ZRANGE', line_of('running'), 0, CHUNK - 1)) do
    if record_of(id).state == 'running' then
      local consumer, process = fields(id, 'consumer', 'process')
      local name = (consumer or '') .. ' ' .. (process or '')
      running[name] = running[name] or {}
      table.insert(running[name], id)
    end
  end
  local heard = call('ZRANGEBYSCORE', P .. ':consumers', text(now - HOUR), '+inf', 'WITHSCORES')
  for i = 1, #heard, 2 do
    local age = now - num(heard[i + 1], now)
    table.insert(found, { heard[i], text(age), running[heard[i]] or {} })
  end
  return found
end

function operation.forget_consumer(consumer, process)
  call('ZREM', P .. ':consumers', consumer .. ' ' .. process)
end

function operation.throughput()
  local numbers = { succeeded = 0, failed = 0, cancelled = 0 }
  local ended = call('HGETALL', P .. ':ended')
  for i = 1, #ended, 2 do
    local minute, state = string.match(ended[i], '^(%d+) (%a+)$')
    if num(minute, 0) > math.floor(now / 60) - 60 and numbers[state] then
      numbers[state] = numbers[state] + num(ended[i + 1], 0)
    end
  end
  return { numbers.succeeded, numbers.failed, numbers.cancelled }
end

function operation.cancel(id, reason)
  local name, state = known(id)
  if not state then return unknown(id) end
  if FINISHED[state] then return { state, 0 } end
  if state == 'running' then
    set(name, 'cancel', '1')
    return { state, 1 }
  end
  withdraw(name)
  conclude(name, 'cancelled', reason)
  return { 'cancelled', 1 }
end

function operation.retry(id)
  local name, state = known(id)
  if not state then return unknown(id) end
  if state ~= 'failed' and state ~= 'cancelled' then return { state, 0, '' } end
  local replaced = newer(name)
  if replaced then return { state, 0, replaced } end
  unset(name, 'counted', 'lost', 'cancel', 'ended')
  queue(name)
  wake(1)
  return { 'queued', 1, '' }
end

function operation.hasten(id)
  local name, state = known(id)
  if not state then return unknown(id) end
  if state == 'queued' then return { state, 1 } end
  if state ~= 'scheduled' then return { state, 0 } end
  queue(name)
  wake(1)
  return { 'queued', 1 }
end

function operation.forget_response(id)
  local name, state = known(id)
  if not state then return unknown(id) end
  if not FINISHED[state] or not get(name, 'last') then return { state, 0 } end
  unset(name, 'last', 'status')
  set(name, 'forgotten', '1')
  resize(name, weight(name))
  return { state, 1 }
end

function operation.remove(id)
  local name, state = known(id)
  if not state then return unknown(id) end
  if STATES[state] and not FINISHED[state] then return { state, 0 } end
  forget(name)
  return { state, 1 }
end

function operation.clear()
  local cleared = {}
  local function drop(id, popped)
    withdraw(id, popped)
    forget(id)
    table.insert(cleared, id)
  end
  local parked = call('HSCAN', P .. ':parked', 0, 'COUNT', PORTION)[2]
  for i = 1, #parked, 2 do
    if is_sound(parked[i + 1]) == 'queued' then drop(parked[i + 1]) end
    call('HDEL', P .. ':parked', parked[i])
  end
  for _, place in ipairs(call('ZRANGE', P .. ':scheduled', 0, PORTION - 1)) do
    if is_sound(string.sub(place, 18)) == 'scheduled' then drop(string.sub(place, 18)) end
    call('ZREM', P .. ':scheduled', place)
  end
  for _ = 1, PORTION do
    local id = call('RPOP', P)
    if not id then break end
    -- Others were left there by tasks that were withdrawn, or are none.
    if not exorcise(id) then
      local record = record_of(id)
      if record.state == 'queued' then
        drop(id, true)
      elseif not record.state and not call('ZSCORE', line_of(''), id) then
        put_aside(id)
      else
        is_sound(id)
      end
    end
  end
  local rest = call('LLEN', P)
  if rest == 0 and call('ZCARD', line_of('queued')) > call('HLEN', P .. ':parked') and relist() then
    rest = call('LLEN', P)
  end
  return { cleared, rest + call('ZCARD', P .. ':scheduled') }
end

function operation.purge(state)
  local ids = call('ZRANGE', line_of(state), 0, PORTION - 1)
  for _, id in ipairs(ids) do forget_finished(id, line_of(state)) end
  return ids
end

function operation.resume()
  call('DEL', P .. ':paused')
  wake(call('LLEN', P))
end

return answer()
