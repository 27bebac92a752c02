-- Every transition of a Redis queue, each one atomic. The keys are described in redis.py.
--
-- KEYS[1]  the prefix of the queue
-- ARGV[1]  the operation, ARGV[2] the settings as JSON, ARGV[3...] its arguments
--
-- Keys are made from the prefix, so a queue lives on one server, not in a cluster.

local P = KEYS[1]
local settings = cjson.decode(ARGV[2])
local call = redis.call

local FIELDS = 7        -- strings a staged task consists of
local ENDS = 8          -- strings the end of an attempt consists of
local MARKERS = 16      -- most wake-up markers that lie about
local PORTION = 1000    -- most tasks one call looks at
local HISTORY = 100     -- attempts and changes that are kept
local ALIASES = 1000    -- skipped tasks whose ids are kept for the one that waits
local STRANGERS = 10000 -- entries kept that are no tasks
local HOUR = 3600       -- seconds that a consumer is remembered

local time = call('TIME')
local now = settings.now or tonumber(time[1]) + tonumber(time[2]) / 1000000
local FINISHED = { succeeded = true, failed = true, cancelled = true }

local function text(number) return string.format('%.6f', number) end
local function task_key(id) return P .. ':task:' .. id end
local function get(id, field) return call('HGET', task_key(id), field) end
local function set(id, ...) call('HSET', task_key(id), ...) end
local function unset(id, ...) call('HDEL', task_key(id), ...) end

local function wake(number)
  local missing = math.min(number, MARKERS) - call('LLEN', P .. ':wake')
  for _ = 1, missing do call('LPUSH', P .. ':wake', '1') end
end

local function changed(changes, state)
  if #changes > HISTORY * 30 then changes = string.sub(changes, string.find(changes, ';', 30) + 1) end
  return changes .. state .. ' ' .. text(now) .. ';'
end

local function enter(id, state, reason)
  local changes = changed(get(id, 'changes') or '', state)
  set(id, 'state', state, 'reason', reason or '', 'changes', changes)
  unset(id, 'token')
end

-- lines

local function waiting_of(key)
  local ids = {}
  for id in string.gmatch(call('HGET', P .. ':keys', key) or '', '%S+') do table.insert(ids, id) end
  return ids
end

local function claim_key(id)
  local key = get(id, 'key')
  if not key then return end
  -- More than one only if one has come back while another waits.
  local ids = waiting_of(key)
  for _, other in ipairs(ids) do
    if other == id then return end
  end
  table.insert(ids, id)
  call('HSET', P .. ':keys', key, table.concat(ids, ' '))
end

local function free_key(key, id)
  local ids = {}
  for _, other in ipairs(waiting_of(key)) do
    if other ~= id then table.insert(ids, other) end
  end
  if #ids > 0 then
    call('HSET', P .. ':keys', key, table.concat(ids, ' '))
  else
    call('HDEL', P .. ':keys', key)
  end
end

local function queue(id, front)
  enter(id, 'queued')
  local number = call('INCR', P .. ':number')
  set(id, 'turn', front and -number or number)
  call(front and 'RPUSH' or 'LPUSH', P, id)
  claim_key(id)
end

local function schedule(id, due, reason)
  enter(id, 'scheduled', reason)
  -- The number decides between those that fall due at the same moment.
  local place = string.format('%016d:%s', call('INCR', P .. ':number'), id)
  set(id, 'place', place)
  call('ZADD', P .. ':scheduled', text(due), place)
  claim_key(id)
end

local function withdraw(id, popped)
  -- An entry in the middle of the list is left there as a ghost: to look for it would take
  -- as long as the list is. Ghosts are skipped when their turn comes.
  local state, key = unpack(call('HMGET', task_key(id), 'state', 'key'))
  if state == 'scheduled' then
    call('ZREM', P .. ':scheduled', get(id, 'place'))
  elseif not popped then
    if key and call('HGET', P .. ':parked', key) == id then
      call('HDEL', P .. ':parked', key)
    else
      call('HINCRBY', P .. ':ghosts', id, 1)
      call('INCR', P .. ':ghosts:number')
    end
  end
  if key then free_key(key, id) end
end

local function exorcise(id)
  local ghosts = tonumber(call('HGET', P .. ':ghosts', id) or '0')
  if ghosts == 0 then return false end
  if ghosts == 1 then
    call('HDEL', P .. ':ghosts', id)
  else
    call('HINCRBY', P .. ':ghosts', id, -1)
  end
  call('DECR', P .. ':ghosts:number')
  return true
end

local function forget(id)
  local state, user = unpack(call('HMGET', task_key(id), 'state', 'user'))
  if FINISHED[state] then call('ZREM', P .. ':finished:' .. state, id) end
  if user then call('ZREM', P .. ':user:' .. user, id) end
  for _, alias in ipairs(call('LRANGE', P .. ':aliases:' .. id, 0, -1)) do
    call('HDEL', P .. ':aliases', alias)
  end
  call('ZREM', P .. ':all', id)
  call('ZREM', P .. ':expiry', id)
  call('DEL', task_key(id), P .. ':history:' .. id, P .. ':aliases:' .. id)
end

local function count_end(state)
  local minute = math.floor(now / 60)
  if call('HINCRBY', P .. ':ended', string.format('%d %s', minute, state), 1) > 1 then return end
  for _, field in ipairs(call('HKEYS', P .. ':ended')) do
    if tonumber(string.match(field, '%d+')) <= minute - 60 then call('HDEL', P .. ':ended', field) end
  end
end

local function hear_of(consumer, process)
  if call('ZADD', P .. ':consumers', text(now), consumer .. ' ' .. process) == 1 then
    call('ZREMRANGEBYSCORE', P .. ':consumers', '-inf', text(now - HOUR))
  end
end

local function conclude(id, state, reason)
  enter(id, state, reason)
  count_end(state)
  local line = P .. ':finished:' .. state
  call('ZADD', line, call('INCR', P .. ':number'), id)
  local keep = get(id, 'keep')
  if not keep then
    keep = state == 'succeeded' and settings.keep_succeeded or settings.keep_failed
  end
  call('ZADD', P .. ':expiry', text(now + math.max(tonumber(keep), settings.linger)), id)
  for _, old in ipairs(call('ZRANGEBYSCORE', P .. ':expiry', '-inf', text(now), 'LIMIT', 0, 100)) do
    forget(old)
  end
  local surplus = call('ZCARD', line) - settings.max_finished
  if surplus > 0 then
    for _, old in ipairs(call('ZRANGE', line, 0, surplus - 1)) do forget(old) end
  end
end

local function see(id, tid)
  -- Whoever runs the task must see that transaction, too. The hex digits of transaction ids
  -- sort as they do; the order in which batches are promoted may be another.
  if tid and tid ~= '' and tid > (get(id, 'tid') or '') then set(id, 'tid', tid) end
end

local function supersede(id, newer, news)
  see(newer, get(id, 'tid'))
  conclude(id, 'cancelled', 'replaced by ' .. newer)
  table.insert(news, { 'cancelled', id, 'replaced by ' .. newer })
end

local function newer(id)
  local key, mode = unpack(call('HMGET', task_key(id), 'key', 'mode'))
  if not key or mode == 'skip' then return nil end
  local ids = waiting_of(key)
  return ids[#ids]
end

local function is_known(id, news)
  if call('EXISTS', task_key(id)) == 0 and call('HEXISTS', P .. ':aliases', id) == 0 then
    return false
  end
  table.insert(news, { 'known', id, '' })
  return true
end

local function skip(id, earlier, tid, news)
  local names = P .. ':aliases:' .. earlier
  call('HSET', P .. ':aliases', id, earlier)
  if call('RPUSH', names, id) > ALIASES then call('HDEL', P .. ':aliases', call('LPOP', names)) end
  see(earlier, tid)
  table.insert(news, { 'skipped', id, earlier })
end

local function create(id, body, key, mode, user, keep, tid)
  set(id, 'body', body)
  if key ~= '' then set(id, 'key', key, 'mode', mode) end
  if keep ~= '' then set(id, 'keep', keep) end
  if tid ~= '' then set(id, 'tid', tid) end
  local number = call('INCR', P .. ':number')
  call('ZADD', P .. ':all', number, id)
  if user ~= '' then
    set(id, 'user', user)
    call('ZADD', P .. ':user:' .. user, number, id)
  end
end

local function admit(id, body, due, key, mode, user, keep, tid, news)
  if is_known(id, news) then return end
  local same = key ~= '' and waiting_of(key) or {}
  if #same > 0 and mode == 'skip' then
    skip(id, same[#same], tid, news)
    return
  end
  create(id, body, key, mode, user, keep, tid)
  for _, earlier in ipairs(same) do
    withdraw(earlier)
    supersede(earlier, id, news)
  end
  if due ~= '' and tonumber(due) > now then
    schedule(id, tonumber(due))
  else
    queue(id)
  end
end

local function ripen()
  local due = call('ZRANGEBYSCORE', P .. ':scheduled', '-inf', text(now), 'LIMIT', 0, PORTION)
  for _, place in ipairs(due) do
    call('ZREM', P .. ':scheduled', place)
    queue(string.sub(place, 18))
  end
  if #due > 0 then wake(#due) end
end

local function unpark(id)
  -- Its turn had come while its key ran, so only what came back to the front since then,
  -- or was unparked just before, can be older.
  local turn, older = tonumber(get(id, 'turn')), {}
  while true do
    local other = call('LINDEX', P, -1)
    if not other or tonumber(get(other, 'turn') or 'inf') > turn then break end
    table.insert(older, call('RPOP', P))
  end
  call('RPUSH', P, id)
  for i = #older, 1, -1 do call('RPUSH', P, older[i]) end
end

local function release(id)
  -- A task runs no more; what becomes of it is said next.
  call('LREM', P .. '.' .. get(id, 'consumer'), 1, id)
  call('ZREM', P .. ':leases', id)
  call('ZREM', P .. ':running', id)
  local key = get(id, 'key')
  if not key or call('HINCRBY', P .. ':running-keys', key, -1) > 0 then return end
  call('HDEL', P .. ':running-keys', key)
  local parked = call('HGET', P .. ':parked', key)
  if parked then
    call('HDEL', P .. ':parked', key)
    unpark(parked)
    wake(1)
  end
end

local function remember(id, attempt)
  local line = P .. ':history:' .. id
  if call('RPUSH', line, attempt) > HISTORY then call('LTRIM', line, -HISTORY, -1) end
end

local function is_pointless(id, news)
  -- A task that was released, and is not to run again: then it is cancelled.
  local replaced = newer(id)
  if get(id, 'cancel') then
    conclude(id, 'cancelled', 'cancelled while running')
    table.insert(news, { 'cancelled', id, 'cancelled while running' })
  elseif replaced then
    supersede(id, replaced, news)
  else
    return false
  end
  return true
end

local function lose(id, news)
  release(id)
  local number, consumer, started = unpack(call('HMGET', task_key(id), 'number', 'consumer', 'started'))
  remember(id, cjson.encode({
    number = tonumber(number), consumer = consumer, started = tonumber(started),
    seconds = now - tonumber(started), reason = 'its process was lost',
  }))
  local lost = call('HINCRBY', task_key(id), 'lost', 1)
  if is_pointless(id, news) then return end
  if lost >= settings.max_deliveries then
    local reason = 'its process was lost ' .. lost .. ' times'
    conclude(id, 'failed', reason)
    table.insert(news, { 'failed', id, reason })
  else
    queue(id, true)
    table.insert(news, { 'recovered', id, consumer })
    wake(1)
  end
end

local function recover(ids, news)
  -- The one reserved last first, so that the oldest ends up at the very front.
  table.sort(ids, function(a, b)
    return tonumber(call('ZSCORE', P .. ':running', a)) > tonumber(call('ZSCORE', P .. ':running', b))
  end)
  for _, id in ipairs(ids) do lose(id, news) end
end

local function expired()
  return call('ZRANGEBYSCORE', P .. ':leases', '-inf', text(now), 'LIMIT', 0, PORTION)
end

local function holds(id, token)
  local state, mine = unpack(call('HMGET', task_key(id), 'state', 'token'))
  return state == 'running' and mine == token
end

local function lease_of(id)
  local record = call('HMGET', task_key(id), 'body', 'token', 'number', 'counted', 'tid')
  return { id, record[1], record[2], record[3], record[4] or '0',
           call('ZSCORE', P .. ':leases', id), record[5] or '' }
end

local RECORD = { 'state', 'key', 'mode', 'body', 'number', 'counted', 'tid', 'changes', 'lost' }

local function record_of(id)
  local record = {}
  for i, value in ipairs(call('HMGET', task_key(id), unpack(RECORD))) do
    record[RECORD[i]] = value or nil
  end
  return record
end

local function soonest()
  -- Seconds until something falls due or a lease expires, empty if nothing does.
  local least
  for _, line in ipairs({ P .. ':scheduled', P .. ':leases' }) do
    local first = call('ZRANGE', line, 0, 0, 'WITHSCORES')[2]
    if first then least = math.min(least or math.huge, math.max(tonumber(first) - now, 0.001)) end
  end
  return least and text(least) or ''
end

local function start(id, record, consumer, process, token, seconds)
  local key, number, expires = record.key, tonumber(record.number or 0) + 1, text(now + seconds)
  if key then
    free_key(key, id)
    call('HINCRBY', P .. ':running-keys', key, 1)
  end
  set(id, 'state', 'running', 'reason', '', 'changes', changed(record.changes, 'running'),
      'token', token, 'consumer', consumer, 'process', process, 'started', text(now),
      'number', number)
  if number > 1 then unset(id, 'progress') end
  call('ZADD', P .. ':leases', expires, id)
  call('ZADD', P .. ':running', call('INCR', P .. ':number'), id)
  return { id, record.body, token, tostring(number), record.counted or '0', expires,
           record.tid or '' }
end

-- operations

local operation = {}

function operation.stage(batch, witness)
  local key = P .. ':batch:' .. batch
  call('DEL', key)
  -- In portions, because the stack of Lua is short.
  for i = 5, #ARGV, PORTION do
    call('RPUSH', key, unpack(ARGV, i, math.min(i + PORTION - 1, #ARGV)))
  end
  call('ZADD', P .. ':staged', call('INCR', P .. ':number'), batch)
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

function operation.condemn(batch, reason)
  local news = {}
  local fields = call('LRANGE', P .. ':batch:' .. batch, 0, -1)
  for i = 1, #fields, FIELDS do
    local id, body, _, key, mode, user, keep = unpack(fields, i, i + FIELDS - 1)
    if not is_known(id, news) then
      -- It stands in no line, so it keeps nothing from running.
      create(id, body, key, mode, user, keep, '')
      enter(id, 'queued')
      conclude(id, 'failed', reason)
      table.insert(news, { 'failed', id, reason })
    end
  end
  -- Whoever promotes it later comes too late: a person decides now.
  if #fields > 0 then settle(batch) end
  return news
end

function operation.promote(batch, tid)
  -- 1: promoted, 0: was promoted before, -1: the batch is lost, give me the tasks.
  local news = {}
  if call('EXISTS', P .. ':promoted:' .. batch) == 1 then return { 0, news } end
  local fields = call('LRANGE', P .. ':batch:' .. batch, 0, -1)
  if #fields == 0 then
    for i = 5, #ARGV do table.insert(fields, ARGV[i]) end
    if #fields == 0 then return { -1, news } end
    -- Promoted so long ago that it is not remembered, but its tasks are.
    local first = fields[1]
    if call('EXISTS', task_key(first)) == 1 or call('HEXISTS', P .. ':aliases', first) == 1 then
      return { 0, news }
    end
  end
  for i = 1, #fields, FIELDS do
    admit(fields[i], fields[i + 1], fields[i + 2], fields[i + 3], fields[i + 4], fields[i + 5],
          fields[i + 6], tid, news)
  end
  settle(batch)
  wake(#fields / FIELDS)
  return { 1, news }
end

local function born()
  -- Whoever remembers another one knows that all else is gone, too.
  call('SETNX', P .. ':born', text(now))
  return call('GET', P .. ':born')
end

local function reserved(mine, nonce, seconds)
  -- The oldest is at the right end. Nobody has renewed these, however long ago that was.
  local leases = {}
  for _, id in ipairs(call('LRANGE', mine, 0, -1)) do
    if string.sub(get(id, 'token') or '', 1, #nonce) == nonce then
      call('ZADD', P .. ':leases', text(now + seconds), id)
      table.insert(leases, 1, lease_of(id))
    end
  end
  return leases
end

local function put_aside(entry, news)
  -- Somebody else has pushed it, such as version 1, or the server has evicted its record.
  local name = P .. ':strangers'
  call('LPUSH', name, entry)
  call('LTRIM', name, 0, STRANGERS - 1)
  local shown = string.gsub(string.sub(entry, 1, 100), '[^%w%p]', '?')
  table.insert(news, { 'stranger', shown, name })
end

local function take(consumer, process, nonce, limit, seconds, careful, news)
  -- Returns leases, and whether all that waits was looked at. With careful, a task whose
  -- process was lost before is taken alone: all that is lost with it again counts as lost.
  local leases, looked, mine = {}, 0, P .. '.' .. consumer
  while #leases < limit and looked < PORTION do
    looked = looked + 1
    local id = call('RPOPLPUSH', P, mine)
    if not id then return leases, true end
    local record = record_of(id)
    local suspect = careful and record.lost
    local was_ghost = exorcise(id)
    if was_ghost or record.state ~= 'queued' then
      call('LREM', mine, 1, id)
      if not record.state and not was_ghost then put_aside(id, news) end
    elseif record.key and record.mode == 'after_running'
        and tonumber(call('HGET', P .. ':running-keys', record.key) or '0') > 0 then
      call('LREM', mine, 1, id)
      call('HSET', P .. ':parked', record.key, id)
    elseif suspect and #leases > 0 then
      call('LREM', mine, 1, id)
      call('RPUSH', P, id)
      break
    else
      local token = nonce .. '.' .. (#leases + 1)
      table.insert(leases, start(id, record, consumer, process, token, seconds))
      if suspect then break end
    end
  end
  return leases, looked < PORTION
end

local function reserve(consumer, process, nonce, limit, seconds, careful)
  local news, leases, done = {}, {}, true
  hear_of(consumer, process)
  recover(expired(), news)
  ripen()
  -- The reply to this very call was lost; its leases are not.
  if settings.again then leases = reserved(P .. '.' .. consumer, nonce, tonumber(seconds)) end
  if #leases == 0 and call('EXISTS', P .. ':paused') == 0 then
    local number, lease = tonumber(limit), tonumber(seconds)
    leases, done = take(consumer, process, nonce, number, lease, careful, news)
  end
  if #leases == 0 then return { done and soonest() or '0', news, leases, born() } end
  if call('LLEN', P) > 0 then wake(1) end
  return { '', news, leases, born() }
end

function operation.reserve(consumer, process, nonce, limit, seconds)
  return reserve(consumer, process, nonce, limit, seconds)
end

function operation.renew(id, token, seconds)
  if not holds(id, token) then return 0 end
  hear_of(get(id, 'consumer'), get(id, 'process'))
  call('ZADD', P .. ':leases', text(now + tonumber(seconds)), id)
  return 1
end

function operation.finish(id, token, state, reason, due, attempt, last, counts)
  local news = {}
  -- The reply to this very call was lost.
  if settings.again and get(id, 'done') == token then return { get(id, 'state'), news } end
  if not holds(id, token) then return { '', news } end
  release(id)
  remember(id, attempt)
  set(id, 'last', last, 'done', token)
  unset(id, 'forgotten')
  local replaced = newer(id)
  if get(id, 'cancel') then
    state = 'cancelled'
    conclude(id, state, 'cancelled while running')
  elseif state ~= 'scheduled' then
    conclude(id, state, reason)
  elseif replaced then
    state = 'cancelled'
    supersede(id, replaced, {})
  else
    call('HINCRBY', task_key(id), 'counted', counts)
    schedule(id, tonumber(due), reason)
    wake(1)
  end
  return { state, news }
end

function operation.exchange(consumer, process, nonce, limit, seconds)
  local states, news = {}, {}
  for i = 8, #ARGV, ENDS do
    local state, told = unpack(operation.finish(unpack(ARGV, i, i + ENDS - 1)))
    table.insert(states, state)
    for _, item in ipairs(told) do table.insert(news, item) end
  end
  local _, more, leases, since = unpack(reserve(consumer, process, nonce, limit, seconds, true))
  for _, item in ipairs(more) do table.insert(news, item) end
  return { states, news, leases, since }
end

function operation.give_back(...)
  local held, waiting, news = { ... }, {}, {}
  -- The last one first, so that the first one ends up at the very front.
  for i = #held - 1, 1, -2 do
    local id = held[i]
    if holds(id, held[i + 1]) then
      release(id)
      call('HINCRBY', task_key(id), 'number', -1)
      unset(id, 'progress')
      if not is_pointless(id, news) then
        queue(id, true)
        table.insert(waiting, 1, id)
      end
    end
  end
  wake(#waiting)
  return { waiting, news }
end

function operation.report(id, token, progress)
  if not holds(id, token) then return 1 end
  if progress ~= '' then set(id, 'progress', progress) end
  return get(id, 'cancel') and 1 or 0
end

-- What follows is asked for seldom: to make these functions takes longer than most calls do.
if operation[ARGV[1]] then
  return operation[ARGV[1]](unpack(ARGV, 3, math.min(#ARGV, 3 + PORTION)))
end

local function known(id)
  return call('HGET', P .. ':aliases', id) or id
end

local function status_of(id)
  return { id, call('HGETALL', task_key(id)), call('LRANGE', P .. ':history:' .. id, 0, -1),
           call('ZSCORE', P .. ':scheduled', get(id, 'place') or '') or '' }
end

local UNKNOWN = 'UNKNOWN '

function operation.recover()
  local news = {}
  recover(expired(), news)
  return news
end

function operation.adopt(consumer, ...)
  -- The tasks of a consumer of that name whose processes are known to be dead.
  local dead, ids, news = {}, {}, {}
  for _, process in ipairs({ ... }) do dead[process] = true end
  for _, id in ipairs(call('LRANGE', P .. '.' .. consumer, 0, -1)) do
    if get(id, 'state') == 'running' and dead[get(id, 'process')] then table.insert(ids, id) end
  end
  recover(ids, news)
  return news
end

function operation.processes(consumer)
  local found = {}
  for _, id in ipairs(call('LRANGE', P .. '.' .. consumer, 0, -1)) do
    table.insert(found, get(id, 'process') or '')
  end
  return found
end

local function ids_of(batch)
  -- In portions: the bodies come along, and there may be many.
  local found, key = {}, P .. ':batch:' .. batch
  for first = 0, call('LLEN', key) - 1, FIELDS * 100 do
    local fields = call('LRANGE', key, first, first + FIELDS * 100 - 1)
    for i = 1, #fields, FIELDS do table.insert(found, fields[i]) end
  end
  return found
end

function operation.in_doubt(age, after)
  local found = {}
  local page = call('ZRANGEBYSCORE', P .. ':staged', after, '+inf', 'WITHSCORES', 'LIMIT', 0, PORTION)
  for i = 1, #page, 2 do
    local batch, number = page[i], page[i + 1]
    local staged, witness = string.match(call('HGET', P .. ':witness', batch), '(%S+) (.*)')
    local since = now - tonumber(staged)
    if since < tonumber(age) then break end
    table.insert(found, { number, batch, witness, text(since), ids_of(batch) })
  end
  return found
end

function operation.length()
  return call('LLEN', P) - tonumber(call('GET', P .. ':ghosts:number') or '0')
    + call('HLEN', P .. ':parked')
end

function operation.counts()
  return { operation.length(), call('ZCARD', P .. ':scheduled'), call('ZCARD', P .. ':running'),
           call('ZCARD', P .. ':finished:succeeded'), call('ZCARD', P .. ':finished:failed'),
           call('ZCARD', P .. ':finished:cancelled') }
end

function operation.get(id)
  id = known(id)
  if not get(id, 'state') then return redis.error_reply(UNKNOWN .. id) end
  return status_of(id)
end

local function queued(take)
  -- Calls take with each queued task in the order they will run, until it returns true.
  for _, id in ipairs(call('HVALS', P .. ':parked')) do
    if take(id) then return end
  end
  local seen, offset = {}, -1
  while true do
    local page = call('LRANGE', P, offset - PORTION + 1, offset)
    for i = #page, 1, -1 do
      local id = page[i]
      seen[id] = (seen[id] or 0) + 1
      local ghosts = tonumber(call('HGET', P .. ':ghosts', id) or '0')
      if seen[id] > ghosts and get(id, 'state') and take(id) then return end
    end
    if #page < PORTION then return end
    offset = offset - PORTION
  end
end

local function in_line(line, first, take)
  while true do
    local page = call('ZRANGE', line, first, first + PORTION - 1)
    for _, id in ipairs(page) do
      if take(id) then return end
    end
    if #page < PORTION then return end
    first = first + PORTION
  end
end

function operation.tasks(state, user, first, size)
  local skip, number, found = tonumber(first), tonumber(size), {}
  if number <= 0 then return found end
  local function take(id)
    if state == 'scheduled' then id = string.sub(id, 18) end
    if state ~= '' and user ~= '' and get(id, 'user') ~= user then return false end
    if skip > 0 then
      skip = skip - 1
    else
      table.insert(found, status_of(id))
    end
    return #found >= number
  end
  if state == 'queued' then
    queued(take)
    return found
  end
  local line = P .. ':all'
  if state == 'scheduled' or state == 'running' then line = P .. ':' .. state end
  if FINISHED[state] then line = P .. ':finished:' .. state end
  local start = 0
  if state == '' or user == '' then
    if user ~= '' then line = P .. ':user:' .. user end
    start, skip = skip, 0
  end
  in_line(line, start, take)
  return found
end

function operation.consumers()
  local running, found = {}, {}
  for _, id in ipairs(call('ZRANGE', P .. ':running', 0, PORTION - 1)) do
    local consumer, process = unpack(call('HMGET', task_key(id), 'consumer', 'process'))
    local name = consumer .. ' ' .. process
    running[name] = running[name] or {}
    table.insert(running[name], id)
  end
  local heard = call('ZRANGEBYSCORE', P .. ':consumers', text(now - HOUR), '+inf', 'WITHSCORES')
  for i = 1, #heard, 2 do
    table.insert(found, { heard[i], text(now - tonumber(heard[i + 1])), running[heard[i]] or {} })
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
    local minute, state = string.match(ended[i], '(%d+) (%a+)')
    if tonumber(minute) > math.floor(now / 60) - 60 then
      numbers[state] = numbers[state] + tonumber(ended[i + 1])
    end
  end
  return { numbers.succeeded, numbers.failed, numbers.cancelled }
end

function operation.cancel(id)
  id = known(id)
  local state = get(id, 'state')
  if not state then return redis.error_reply(UNKNOWN .. id) end
  if FINISHED[state] then return { state, 0 } end
  if state == 'running' then
    set(id, 'cancel', '1')
    return { state, 1 }
  end
  withdraw(id)
  conclude(id, 'cancelled', 'cancelled')
  return { 'cancelled', 1 }
end

function operation.retry(id)
  id = known(id)
  local state = get(id, 'state')
  if not state then return redis.error_reply(UNKNOWN .. id) end
  if state ~= 'failed' and state ~= 'cancelled' then return { state, 0, '' } end
  local replaced = newer(id)
  if replaced then return { state, 0, replaced } end
  call('ZREM', P .. ':finished:' .. state, id)
  call('ZREM', P .. ':expiry', id)
  unset(id, 'counted', 'lost', 'cancel')
  queue(id)
  wake(1)
  return { 'queued', 1, '' }
end

function operation.hasten(id)
  id = known(id)
  local state = get(id, 'state')
  if not state then return redis.error_reply(UNKNOWN .. id) end
  if state == 'queued' then return { state, 1 } end
  if state ~= 'scheduled' then return { state, 0 } end
  call('ZREM', P .. ':scheduled', get(id, 'place'))
  queue(id)
  wake(1)
  return { 'queued', 1 }
end

function operation.forget_response(id)
  id = known(id)
  local state = get(id, 'state')
  if not state then return redis.error_reply(UNKNOWN .. id) end
  if not FINISHED[state] or not get(id, 'last') then return { state, 0 } end
  unset(id, 'last')
  set(id, 'forgotten', '1')
  return { state, 1 }
end

function operation.remove(id)
  id = known(id)
  local state = get(id, 'state')
  if not state then return redis.error_reply(UNKNOWN .. id) end
  if not FINISHED[state] then return { state, 0 } end
  forget(id)
  return { state, 1 }
end

function operation.clear()
  local cleared, news = {}, {}
  local function drop(id, popped)
    withdraw(id, popped)
    forget(id)
    table.insert(cleared, id)
  end
  for _, id in ipairs(call('HVALS', P .. ':parked')) do drop(id) end
  for _, place in ipairs(call('ZRANGE', P .. ':scheduled', 0, PORTION - 1)) do
    drop(string.sub(place, 18))
  end
  for _ = 1, PORTION do
    local id = call('RPOP', P)
    if not id then break end
    local state = get(id, 'state')
    if exorcise(id) then
      -- Left there by a task that was withdrawn.
    elseif state == 'queued' then
      drop(id, true)
    elseif not state then
      put_aside(id, news)
    end
  end
  return { cleared, call('LLEN', P) + call('ZCARD', P .. ':scheduled'), news }
end

function operation.purge(state)
  local ids = call('ZRANGE', P .. ':finished:' .. state, 0, PORTION - 1)
  for _, id in ipairs(ids) do forget(id) end
  return ids
end

function operation.resume()
  call('DEL', P .. ':paused')
  wake(call('LLEN', P))
end

return operation[ARGV[1]](unpack(ARGV, 3, math.min(#ARGV, 3 + PORTION)))
