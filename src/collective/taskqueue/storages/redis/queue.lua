-- Every transition of a Redis queue, each one atomic. storage.py describes the keys.
--
-- KEYS[1]  the prefix of the queue
-- ARGV[1]  the operation, ARGV[2] the settings as JSON, ARGV[3...] its arguments
--
-- Returns the result of the operation, and `notices`: other events of the same call. Keys are made
-- from the prefix, so a queue lives on one server, not in a cluster. Nothing in a key is
-- trusted: data that this script did not write is moved aside, and the operation goes on.

local P = KEYS[1]
local settings = cjson.decode(ARGV[2])

local FIELDS = 9        -- strings of a staged task
local ENDS = 9          -- strings of a completion
local MARKERS = 16      -- most wake-up markers in their list
local PORTION = 25      -- most tasks of a kind that one call processes: at most 5 ms
local OLDER = 50        -- most tasks at the front that stay before a task that was parked
local LOOKS = 200       -- most entries one call examines to find tasks that may run
local CHUNK = 1000      -- most values in one command: the stack of Lua is short
local NUMBERS = 100     -- numbers that a call takes at once
local HISTORY = 100     -- attempts and changes that are kept
local ALIASES = 1000    -- aliases (ids of skipped tasks) kept for each waiting task
local FOREIGN = 10000 -- entries kept that are not tasks
local HOUR = 3600       -- seconds that a consumer is remembered
local WEEK = 604800     -- seconds that an unreadable record is kept
local WEIGHT = 500      -- bytes of a record without its large fields
local LARGEST = 2 ^ 52  -- largest number that the queue gives out
local FAR = 1e14        -- seconds since the epoch: no task is due later

local STATES = { queued = true, scheduled = true, running = true,
                 succeeded = true, failed = true, cancelled = true }
local ORDER = { 'queued', 'scheduled', 'running', 'succeeded', 'failed', 'cancelled' }
local FINISHED = { succeeded = true, failed = true, cancelled = true }

local notices = {}
local function note(kind, id, detail) table.insert(notices, { kind, id, detail or '' }) end

-- data that cannot be trusted

local function move_aside(key)
  local name = string.gsub(string.sub(key, #P + 1), '^[.:]', '')
  local to = P .. ':broken:' .. (name == '' and 'queue' or name)
  redis.call('RENAME', key, to)
  note('moved', key, to)
  return to
end

local function mended(command, key, ...)
  -- A key of the wrong type is not ours: move it aside, then run the command without it.
  local other = command == 'RPOPLPUSH' and ...
  if other and redis.call('TYPE', other).ok ~= 'list' and redis.call('EXISTS', other) == 1 then
    move_aside(other)
  end
  local kind = redis.call('TYPE', key).ok
  if not other or (kind ~= 'list' and kind ~= 'none') then move_aside(key) end
  return redis.call(command, key, ...)
end

-- Pending changes of sorted sets ("lines"): line, member, and its score, or false to remove it.
-- A call changes the same lines for each of its tasks, so it writes all changes together.
local unwritten
local write_lines
local Z = string.byte('Z')

local function call(command, key, ...)
  -- Write the pending changes before a command reads a sorted set.
  if unwritten and string.byte(command) == Z then write_lines() end
  local reply = redis.pcall(command, key, ...)
  if type(reply) == 'table' and reply.err then
    if string.find(reply.err, 'WRONGTYPE', 1, true) then return mended(command, key, ...) end
    -- Run the command again, only to raise its error.
    return redis.call(command, key, ...)
  end
  return reply
end

local function call_in_chunks(command, key, values)
  for i = 1, #values, CHUNK do
    call(command, key, unpack(values, i, math.min(i + CHUNK - 1, #values)))
  end
end

local function put(line, score, member)
  unwritten = unwritten or {}
  local members = unwritten[line]
  if members then
    members[member] = score
  else
    unwritten[line] = { [member] = score }
  end
end

local function drop(line, member) put(line, false, member) end

write_lines = function()
  local lines = unwritten
  unwritten = nil
  for line, members in pairs(lines) do
    local gone, come = {}, {}
    for member, score in pairs(members) do
      if score then
        come[#come + 1] = score
        come[#come + 1] = member
      else
        gone[#gone + 1] = member
      end
    end
    call_in_chunks('ZREM', line, gone)
    call_in_chunks('ZADD', line, come)
  end
end

local function num(value, otherwise)
  local number = tonumber(value or nil)
  -- NaN and infinity are not accepted.
  if number and number > -1e15 and number < 1e15 then return number end
  return otherwise
end

local time = redis.call('TIME')
local now = settings.now or tonumber(time[1]) + tonumber(time[2]) / 1000000

local function text(number) return string.format('%.6f', number) end
local function integer(number) return string.format('%d', number) end
local NOW = text(now)
local function task_key(id) return P .. ':task:' .. id end
local function get(id, field) return call('HGET', task_key(id), field) end
local function set(id, ...) call('HSET', task_key(id), ...) end
local function unset(id, ...) call('HDEL', task_key(id), ...) end

local there = {}
local function is_there_any(name)
  -- Returns whether a key exists that most queues do not have; looks it up once per call.
  if there[name] == nil then there[name] = call('EXISTS', P .. ':' .. name) == 1 end
  return there[name]
end

local function add(hash, field, number)
  -- A value that is not a number is replaced: the sum starts again.
  local sum = redis.pcall('HINCRBY', hash, field, number)
  if type(sum) == 'number' then return sum end
  call('HSET', hash, field, number)
  return number
end

-- The fields of a record. `take` does not need the fields before WAITING. The fields after SMALL
-- may be large.
local RECORD = { 'place', 'keep', 'token', 'done', 'consumer', 'process', 'started', 'cancel',
                 'forgotten', 'state', 'changes', 'user', 'person', 'key', 'mode', 'tid',
                 'number', 'counted', 'lost', 'progress', 'body', 'payload' }
local WAITING, SMALL = 10, 20

local function read_record(id, first, last)
  -- Reads a record with one command. The record has only its id if the key cannot be read.
  local found = redis.pcall('HMGET', task_key(id), unpack(RECORD, first, last))
  local record = { id = id }
  if found.err then return record end
  for i, value in ipairs(found) do record[RECORD[first + i - 1]] = value or nil end
  return record
end

local function record_of(id) return read_record(id, 1, SMALL) end

local function line_of(state)
  if state == '' then return P .. ':all' end
  return FINISHED[state] and P .. ':finished:' .. state or P .. ':' .. state
end

local function each_line(record, state, change, ...)
  -- Changes the lines of a state for a task: of all tasks, of its user, of its person.
  change(line_of(state), ...)
  if record.user then change(P .. ':of:' .. state .. ':' .. record.user, ...) end
  if record.person then change(P .. ':person:' .. state .. ':' .. record.person, ...) end
end

local function renumber()
  -- The last number was lost or damaged: restore it from the lines, which were numbered by it.
  local most = 0
  for _, state in ipairs({ '', 'queued', 'running', 'succeeded', 'failed', 'cancelled' }) do
    local last = call('ZREVRANGEBYSCORE', line_of(state), LARGEST, 0, 'WITHSCORES', 'LIMIT', 0, 1)
    most = math.max(most, num(last[2], 0))
  end
  most = math.max(most, num(call('ZREVRANGE', P .. ':staged', 0, 0, 'WITHSCORES')[2], 0))
  local front = call('ZRANGEBYSCORE', line_of('queued'), -LARGEST, 0, 'WITHSCORES', 'LIMIT', 0, 1)
  most = math.max(most, -num(front[2], 0)) + 1
  call('SET', P .. ':number', integer(most + NUMBERS))
  return most + NUMBERS
end

local next_free, last_free = 1, 0

local function take_numbers()
  local last = redis.pcall('INCRBY', P .. ':number', NUMBERS)
  if type(last) == 'table' then
    if string.find(last.err, 'WRONGTYPE', 1, true) then move_aside(P .. ':number') end
    return renumber()
  end
  if last > NUMBERS and last < LARGEST then return last end
  return renumber()
end

local function next_number()
  if next_free > last_free then
    last_free = take_numbers()
    next_free = last_free - NUMBERS + 1
  end
  next_free = next_free + 1
  return next_free - 1
end

local function wake(number)
  local missing = math.min(number, MARKERS) - call('LLEN', P .. ':wake')
  for _ = 1, missing do call('LPUSH', P .. ':wake', '1') end
end

-- states: only this section knows which lines contain a task

local function changed(changes, state)
  local excess = #changes - HISTORY * 30
  if excess > 0 then
    local last = string.find(changes, ';', math.max(excess, 30), true) or #changes
    changes = string.sub(changes, last + 1)
  end
  return changes .. state .. ' ' .. NOW .. ';'
end

local resized
local bytes

local function resize(id, size)
  -- Sets the bytes of a finished record, 0 if it is deleted. Written together with others, too.
  resized = resized or {}
  resized[id] = size
end

local function finished_bytes_before()
  bytes = bytes or num(call('GET', P .. ':bytes'))
  if bytes then return bytes end
  -- The sum was lost or damaged.
  bytes = 0
  for _, size in ipairs(call('HVALS', P .. ':sizes')) do bytes = bytes + num(size, 0) end
  call('SET', P .. ':bytes', integer(bytes))
  return bytes
end

local function write_sizes()
  local ids, gone, come, difference = {}, {}, {}, 0
  for id, size in pairs(resized) do
    ids[#ids + 1] = id
    difference = difference + size
    if size > 0 then
      come[#come + 1] = id
      come[#come + 1] = integer(size)
    else
      gone[#gone + 1] = id
    end
  end
  resized = nil
  local hash, sum = P .. ':sizes', finished_bytes_before()
  for i = 1, #ids, CHUNK do
    local before = call('HMGET', hash, unpack(ids, i, math.min(i + CHUNK - 1, #ids)))
    for _, size in ipairs(before) do difference = difference - num(size, 0) end
  end
  call_in_chunks('HSET', hash, come)
  call_in_chunks('HDEL', hash, gone)
  bytes = math.max(sum + difference, 0)
  call('SET', P .. ':bytes', integer(bytes))
end

local function finished_bytes()
  if resized then write_sizes() end
  return finished_bytes_before()
end

local function weight(record)
  -- The record holds what this call has written; only other fields are read from the server.
  local key = task_key(record.id)
  local size = WEIGHT + #(record.progress or '') + call('HSTRLEN', key, 'body')
  size = size + (record.reason and #record.reason or call('HSTRLEN', key, 'reason'))
  size = size + (record.last and #record.last or call('HSTRLEN', key, 'last'))
  if record.state ~= 'succeeded' then size = size + call('HSTRLEN', key, 'payload') end
  if record.history then return size + record.history end
  local history = call('LRANGE', P .. ':history:' .. record.id, 0, -1)
  for _, line in ipairs(history) do size = size + #line end
  return size
end

local function leave(record, state)
  if not STATES[state] then
    -- The state is unknown: the lines of any state may contain the task.
    for other in pairs(STATES) do leave(record, other) end
    return
  end
  each_line(record, state, drop, state == 'scheduled' and record.place or record.id)
  if FINISHED[state] then
    resize(record.id, 0)
    drop(P .. ':expiry', record.id)
  end
end

local function enter(record, state, score, reason, more, place)
  -- `more`: other fields and values to write with the same command.
  local values = more or {}
  if record.state then leave(record, record.state) end
  if record.place then unset(record.id, 'place') end
  if place then
    values[#values + 1] = 'place'
    values[#values + 1] = place
  end
  record.state, record.reason, record.place = state, reason or '', place
  record.changes = changed(record.changes or '', state)
  local reason_now, changes = record.reason, record.changes
  set(record.id, 'state', state, 'reason', reason_now, 'changes', changes, unpack(values))
  each_line(record, state, put, score, place or record.id)
end

-- keys, and waiting tasks

local function ids_of_key(hash, key, one, another)
  -- Returns the tasks of a key that are in one of two states; other ids are out of date.
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
  -- A key has more than one task only if one came back to the queue while another waited.
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

local function claim_key(record)
  local key = record.key
  if key then join_key(P .. ':keys', key, waiting_of(key), record.id) end
end

local function queue(record, front, more)
  local number = next_number()
  enter(record, 'queued', integer(front and -number or number), '', more)
  call(front and 'RPUSH' or 'LPUSH', P, record.id)
  claim_key(record)
end

local function schedule(record, due, reason, more)
  -- The number orders tasks that are due at the same moment.
  local place = string.format('%016d:%s', next_number(), record.id)
  enter(record, 'scheduled', text(due), reason, more, place)
  claim_key(record)
end

local function withdraw(record, popped)
  -- An entry in the middle of the list stays there as a tombstone: the time to find it would
  -- grow with the length of the list. `take` skips a tombstone when its turn comes.
  local id, key = record.id, record.key
  if record.state ~= 'scheduled' and not popped then
    if key and call('HGET', P .. ':parked', key) == id then
      call('HDEL', P .. ':parked', key)
    else
      add(P .. ':tombstones', id, 1)
      there.tombstones = true
    end
  end
  if key then free_key(key, id) end
end

local function exorcise(id)
  local tombstones = is_there_any('tombstones') and num(call('HGET', P .. ':tombstones', id))
  if not tombstones then return false end
  if tombstones > 1 then
    call('HSET', P .. ':tombstones', id, tombstones - 1)
  else
    call('HDEL', P .. ':tombstones', id)
  end
  return true
end

local function forget_names(id)
  if not is_there_any('aliases') then return end
  for _, alias in ipairs(call('LRANGE', P .. ':aliases:' .. id, 0, -1)) do
    call('HDEL', P .. ':aliases', alias)
  end
end

local function forget(record)
  local id = record.id
  leave(record, record.state or 'unknown')
  each_line(record, '', drop, id)
  forget_names(id)
  call('DEL', task_key(id), P .. ':history:' .. id, P .. ':aliases:' .. id)
end

local function forget_finished(id, line)
  -- A damaged list may name a task that still waits or runs: such a record is kept.
  local record = record_of(id)
  -- A key of another type is no record: on the error, `call` moves the key aside.
  if not record.state then call('HGET', task_key(id), 'state') end
  if FINISHED[record.state] or not STATES[record.state] then forget(record) end
  drop(line, id)
end

local function oldest_finished(limit)
  -- Returns finished tasks of all states together, the one that finished first at the front.
  local found = {}
  for state in pairs(FINISHED) do
    local line = line_of(state)
    local page = call('ZRANGE', line, 0, limit - 1, 'WITHSCORES')
    for i = 1, #page, 2 do
      table.insert(found, { id = page[i], line = line, number = num(page[i + 1], -1) })
    end
  end
  table.sort(found, function(a, b) return a.number < b.number end)
  return found
end

local function forget_surplus_bytes(limit)
  -- Returns how many records were forgotten.
  if limit == 0 or finished_bytes() <= settings.max_finished_bytes then return 0 end
  local oldest = oldest_finished(limit)
  if #oldest == 0 then
    call('DEL', P .. ':bytes', P .. ':sizes')
    bytes = 0
  end
  for i = 1, math.min(#oldest, limit) do
    -- For `linger` seconds, subscribers to the event can read any record, however large.
    if finished_bytes() <= settings.max_finished_bytes then return i - 1 end
    if num(get(oldest[i].id, 'ended'), 0) + settings.linger > now then return i - 1 end
    forget_finished(oldest[i].id, oldest[i].line)
  end
  return math.min(#oldest, limit)
end

local function remove_expired(limit)
  -- Forgets expired records and surplus bytes. Returns whether there may be more to forget.
  local old = call('ZRANGEBYSCORE', P .. ':expiry', '-inf', NOW, 'LIMIT', 0, limit)
  for _, id in ipairs(old) do forget_finished(id, P .. ':expiry') end
  return #old + forget_surplus_bytes(limit - #old) >= limit
end

local function count_ends(state, ends)
  local minute = math.floor(now / 60)
  if add(P .. ':ended', string.format('%d %s', minute, state), ends) > ends then return end
  for _, other in ipairs(call('HKEYS', P .. ':ended')) do
    local its = num(string.match(other, '^%d+'), 0)
    if its <= minute - 60 then call('HDEL', P .. ':ended', other) end
  end
end

local function hear_of(consumer, process)
  if call('ZADD', P .. ':consumers', NOW, consumer .. ' ' .. process) == 1 then
    call('ZREMRANGEBYSCORE', P .. ':consumers', '-inf', text(now - HOUR))
  end
end

local ended, is_untidy = {}, false

local function trim(state, ends)
  -- Forgets surplus records, at most PORTION more than this call has added.
  local line = line_of(state)
  local surplus = math.min(call('ZCARD', line) - settings.max_finished, PORTION + ends)
  if surplus <= 0 then return end
  for _, id in ipairs(call('ZRANGE', line, 0, surplus - 1)) do forget_finished(id, line) end
end

local function keep_house()
  -- Cleans up once per call, after all completions. Expired records go first, to make room.
  local all = 0
  for _, ends in pairs(ended) do all = all + ends end
  if all > 0 or is_untidy then remove_expired(PORTION + all) end
  for state, ends in pairs(ended) do
    count_ends(state, ends)
    trim(state, ends)
  end
end

local function conclude(record, state, reason, more)
  local id, values = record.id, more or {}
  values[#values + 1] = 'ended'
  values[#values + 1] = NOW
  enter(record, state, integer(next_number()), reason, values)
  -- A task that has succeeded cannot be retried, so its payload is not needed.
  if state == 'succeeded' then unset(id, 'payload') end
  resize(id, weight(record))
  local keep = state == 'succeeded' and settings.keep_succeeded or settings.keep_failed
  keep = math.max(num(record.keep, keep), settings.linger)
  put(P .. ':expiry', text(now + keep), id)
  ended[state] = (ended[state] or 0) + 1
end

local function see(id, tid)
  -- The attempt must see that transaction, too. Transaction ids sort the same in hex digits.
  -- Keep the latest id: batches may be promoted in another order than they were committed.
  if tid and tid ~= '' and tid > (get(id, 'tid') or '') then set(id, 'tid', tid) end
end

local function supersede(record, newer, quiet, more)
  see(newer, record.tid)
  conclude(record, 'cancelled', 'replaced by ' .. newer, more)
  if not quiet then note('cancelled', record.id, 'replaced by ' .. newer) end
end

local function newer(record)
  local key = record.key
  if not key or record.mode == 'skip' then return nil end
  local ids = waiting_of(key)
  return ids[#ids]
end

local function is_there(id)
  return call('EXISTS', task_key(id)) == 1
    or is_there_any('aliases') and call('HEXISTS', P .. ':aliases', id) == 1
end

local function is_known(id)
  if not is_there(id) then return false end
  note('known', id)
  return true
end

local function skip(id, earlier, tid)
  local names = P .. ':aliases:' .. earlier
  call('HSET', P .. ':aliases', id, earlier)
  there.aliases = true
  if call('RPUSH', names, id) > ALIASES then call('HDEL', P .. ':aliases', call('LPOP', names)) end
  see(earlier, tid)
  note('skipped', id, earlier)
end

local function create(id, body, payload, key, mode, user, person, keep, tid)
  -- Returns a record, and its fields and values, which `enter` writes.
  local record, values = { id = id }, { 'body', body }
  local function keep_field(name, value)
    values[#values + 1] = name
    values[#values + 1] = value
    record[name] = value
  end
  if payload ~= '' then
    values[#values + 1] = 'payload'
    values[#values + 1] = payload
  end
  if key ~= '' then
    keep_field('key', key)
    keep_field('mode', mode)
  end
  if keep ~= '' then keep_field('keep', keep) end
  if tid ~= '' then keep_field('tid', tid) end
  if person ~= '' then
    keep_field('user', user)
    keep_field('person', person)
  end
  each_line(record, '', put, integer(next_number()), id)
  return record, values
end

local function promote(tid, id, body, payload, due, key, mode, user, person, keep)
  if is_known(id) then return end
  local same = key ~= '' and waiting_of(key) or {}
  if #same > 0 and mode == 'skip' then
    skip(id, same[#same], tid)
    return
  end
  local record, values = create(id, body, payload, key, mode, user, person, keep, tid)
  local moment = num(due, 0)
  if #same > 0 then
    set(id, unpack(values))
    values = nil
  end
  for _, earlier in ipairs(same) do
    local its = record_of(earlier)
    withdraw(its)
    supersede(its, id)
  end
  if moment > now then
    schedule(record, moment, '', values)
  else
    queue(record, false, values)
  end
end

local function unpark(id)
  -- The turn of the task came while another task of its key ran. So only tasks that came back
  -- to the front since then, or were unparked just before, can be older.
  local turn, older = num(call('ZSCORE', line_of('queued'), id), 0), {}
  for _ = 1, OLDER do
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
  -- Removes a task from the running tasks of its key. Takes the id: the record may be lost.
  local key = is_there_any('running-key') and call('HGET', P .. ':running-key', id)
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

local function release(record)
  -- Takes away the lease of a running task. The caller then sets the next state.
  if record.consumer then call('LREM', P .. '.' .. record.consumer, 1, record.id) end
  drop(P .. ':leases', record.id)
  free_running(record.id)
end

local function remember(record, attempt)
  local line = P .. ':history:' .. record.id
  local length = call('RPUSH', line, attempt)
  if length == 1 then record.history = #attempt end
  if length > HISTORY then call('LTRIM', line, -HISTORY, -1) end
end

-- damaged data

local function named(entry)
  -- Does not show an entry that is no id: a task of version 1 contains the user's credentials.
  local is_id = #entry == 36 and string.find(entry, '^%x+%-%x+%-%x+%-%x+%-%x+$')
  if is_id then return 'task ' .. entry end
  return 'entry of ' .. #entry .. ' bytes, sha1 ' .. string.sub(redis.sha1hex(entry), 1, 12)
end

local function take_out(id)
  -- Removes an id that has no readable record from all lists and sets that may contain it.
  for _, heard in ipairs(call('ZRANGE', P .. ':consumers', 0, CHUNK)) do
    call('LREM', P .. '.' .. (string.match(heard, '^%S+') or heard), 0, id)
  end
  drop(P .. ':leases', id)
  call('HDEL', P .. ':tombstones', id)
  free_running(id)
  if call('EXISTS', task_key(id)) == 1 then call('EXPIRE', move_aside(task_key(id)), WEEK) end
  forget({ id = id })
  note('broken', named(id), 'its record is missing, taken out of the queue')
end

local function is_sound(id)
  -- Returns the state and the record; false if there is no record in a known state. An id
  -- without a record is removed from all lines; a record whose state is unreadable is failed.
  local record = record_of(id)
  if STATES[record.state] then return record.state, record end
  if not record.state then
    local found = redis.pcall('HEXISTS', task_key(id), 'body')
    if found ~= 1 then
      take_out(id)
      return false
    end
  end
  release(record)
  record.state = record.state or 'unknown'
  local reason = 'its record is damaged: its state is unknown'
  conclude(record, 'failed', reason)
  note('failed', id, reason)
  return false
end

local function stray(record, state)
  -- Removes a task from the lines of a state that it is not in.
  drop(P .. ':leases', record.id)
  leave(record, state)
  note('broken', named(record.id), 'it is not ' .. state .. ', taken out of that list')
end

local function ripen()
  local due = call('ZRANGEBYSCORE', P .. ':scheduled', '-inf', NOW, 'LIMIT', 0, PORTION)
  for _, place in ipairs(due) do
    local id = string.sub(place, 18)
    local state, record = is_sound(id)
    if state == 'scheduled' then
      queue(record)
    elseif state then
      note('broken', named(id), 'it is not scheduled, taken out of that list')
    end
    drop(P .. ':scheduled', place)
  end
  if #due > 0 then wake(#due) end
end

local function is_pointless(record, more)
  -- Cancels a released task if it must not run again. Returns whether it was cancelled.
  local replaced = newer(record)
  if record.cancel then
    conclude(record, 'cancelled', 'cancelled while running', more)
    note('cancelled', record.id, 'cancelled while running')
  elseif replaced then
    supersede(record, replaced, false, more)
  else
    return false
  end
  return true
end

local function lose(id)
  local state, record = is_sound(id)
  if state ~= 'running' then
    if state then stray(record, 'running') end
    return
  end
  local started, lost = num(record.started, now), num(record.lost, 0) + 1
  release(record)
  remember(record, cjson.encode({
    number = num(record.number, 1), consumer = record.consumer or '', started = started,
    seconds = now - started, reason = 'its process was lost',
  }))
  local more = { 'lost', lost }
  if is_pointless(record, more) then return end
  if lost >= settings.max_deliveries then
    local reason = 'its process was lost ' .. lost .. ' times'
    conclude(record, 'failed', reason, more)
    note('failed', id, reason)
  else
    queue(record, true, more)
    note('recovered', id, record.consumer or '')
    wake(1)
    return true
  end
end

local function recover(ids)
  -- Recovers up to PORTION tasks, the one reserved last first, so that the oldest ends up at
  -- the very front. Returns 1 if there are more, and the ids of the tasks that wait again.
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
    -- A running task without a lease would never be found. A task not running needs no lease.
    for _, id in ipairs(call('ZRANGE', line_of('running'), 0, CHUNK)) do
      if not call('ZSCORE', P .. ':leases', id) then
        local state, record = is_sound(id)
        if state == 'running' then
          put(P .. ':leases', text(now + settings.lease), id)
        elseif state then
          stray(record, 'running')
        end
      end
    end
    for _, id in ipairs(call('ZRANGE', P .. ':leases', 0, CHUNK)) do
      if not call('ZSCORE', line_of('running'), id) then
        local state, record = is_sound(id)
        if state == 'running' then
          enter(record, state, integer(next_number()))
        elseif state then
          stray(record, 'running')
        end
      end
    end
  end
  return call('ZRANGEBYSCORE', P .. ':leases', '-inf', NOW, 'LIMIT', 0, LOOKS)
end

local function holds(record, token)
  return record.state == 'running' and record.token == token
end

local function lease_of(record, expires)
  return { record.id, record.body or '', record.payload or '', record.token,
           tostring(num(record.number, 1)), tostring(num(record.counted, 0)), expires,
           record.tid or '' }
end

local function mend_moments()
  -- A task that is never due would wait for ever; a lease that never expires would keep its
  -- task running for ever.
  local function far(line)
    return ipairs(call('ZRANGEBYSCORE', line, FAR, '+inf', 'LIMIT', 0, PORTION))
  end
  for _, place in far(P .. ':scheduled') do
    local id = string.sub(place, 18)
    local state, record = is_sound(id)
    if state == 'scheduled' then
      local reason = 'its record is damaged: its due time is unknown'
      if record.key then free_key(record.key, id) end
      conclude(record, 'failed', reason)
      note('failed', id, reason)
    end
    drop(P .. ':scheduled', place)
  end
  for _, id in far(P .. ':leases') do
    put(P .. ':leases', text(now + settings.lease), id)
  end
end

local function soonest()
  -- Returns the seconds until a task is due or a lease expires; empty if there are none.
  local least
  for _, line in ipairs({ P .. ':scheduled', P .. ':leases' }) do
    local first = num(call('ZRANGE', line, 0, 0, 'WITHSCORES')[2])
    if first then least = math.min(least or math.huge, math.max(first - now, 0.001)) end
  end
  return least and text(least) or ''
end

local function start(record, consumer, process, token, seconds)
  local id, key, expires = record.id, record.key, text(now + seconds)
  if key then
    free_key(key, id)
    join_key(P .. ':running-keys', key, running_of(key), id)
    call('HSET', P .. ':running-key', id, key)
    there['running-key'] = true
  end
  local number = integer(num(record.number, 0) + 1)
  record.token, record.number = token, number
  enter(record, 'running', integer(next_number()), '', {
    'token', token, 'consumer', consumer, 'process', process, 'started', NOW,
    'number', number,
  })
  if record.progress then unset(id, 'progress') end
  put(P .. ':leases', expires, id)
  return lease_of(record, expires)
end

-- operations

local operation = {}

function operation.stage(batch, witness)
  local key = P .. ':batch:' .. batch
  -- DEL must not be the first write of `stage` for a new batch: see `answer`.
  if call('EXISTS', key) == 1 then call('DEL', key) end
  -- The ids come first, in one string: `in_doubt` need not load the tasks.
  local ids = {}
  for i = 5, #ARGV, FIELDS do table.insert(ids, ARGV[i]) end
  call('RPUSH', key, table.concat(ids, ' '))
  for i = 5, #ARGV, CHUNK do
    call('RPUSH', key, unpack(ARGV, i, math.min(i + CHUNK - 1, #ARGV)))
  end
  call('ZADD', P .. ':staged', next_number(), batch)
  call('HSET', P .. ':witness', batch, NOW .. ' ' .. witness)
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
  -- Returns the strings of the tasks of a batch; none if the batch is damaged.
  local key = P .. ':batch:' .. batch
  local found = call('LRANGE', key, 1, -1)
  if #found % FIELDS == 0 then return found end
  note('moved', key, move_aside(key))
  operation.discard(batch)
  return {}
end

function operation.fail_batch(batch, reason)
  local found = staged(batch)
  for i = 1, #found, FIELDS do
    local id, body, payload, _, key, mode, user, person, keep = unpack(found, i, i + FIELDS - 1)
    if not is_known(id) then
      -- The task is not in the list and does not claim its key, so it blocks no other task.
      local record, values = create(id, body, payload, key, mode, user, person, keep, '')
      enter(record, 'queued', 0, '', values)
      conclude(record, 'failed', reason)
      note('failed', id, reason)
    end
  end
  -- A later `promote` of the batch does nothing: an admin decides now.
  if #found > 0 then settle(batch) end
end

function operation.promote(batch, tid)
  -- Returns 1: promoted, 0: was promoted before, -1: the batch is lost, call with its tasks.
  if call('EXISTS', P .. ':promoted:' .. batch) == 1 then return 0 end
  local found = staged(batch)
  if #found == 0 then
    for i = 5, #ARGV do table.insert(found, ARGV[i]) end
    if #found == 0 then return -1 end
    -- The mark of an earlier promotion has expired, but the tasks are still there.
    if is_there(found[1]) then return 0 end
  end
  for i = 1, #found, FIELDS do promote(tid, unpack(found, i, i + FIELDS - 1)) end
  settle(batch)
  wake(#found / FIELDS)
  return 1
end

local function incarnation()
  -- A storage that remembers another value knows that the server has lost all data.
  local found = call('GET', P .. ':incarnation')
  if not found then
    found = NOW
    call('SET', P .. ':incarnation', found)
  end
  return found
end

local function reserved(mine, nonce, seconds)
  -- The oldest is at the right end. No heartbeat has renewed these leases, so renew them
  -- now, however long ago they were made.
  local leases = {}
  for _, id in ipairs(call('LRANGE', mine, 0, -1)) do
    local record = read_record(id, 1, #RECORD)
    local token = record.state == 'running' and record.token or ''
    if string.sub(token, 1, #nonce) == nonce then
      put(P .. ':leases', text(now + seconds), id)
      table.insert(leases, 1, lease_of(record, text(now + seconds)))
    end
  end
  return leases
end

local function put_aside(entry)
  -- Another program has pushed the entry, such as version 1, or the server evicted its record.
  local name = P .. ':foreign'
  call('LPUSH', name, entry)
  call('LTRIM', name, 0, FOREIGN - 1)
  note('foreign', named(entry), name)
end

local function relist()
  -- The list is empty, but tasks are queued: the list or entries of `parked` were lost.
  local mine, lost = {}, {}
  -- An empty list has no tombstones.
  call('DEL', P .. ':tombstones')
  there.tombstones = false
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
    if not mine[id] then
      local state, record = is_sound(id)
      if state == 'queued' then
        table.insert(lost, id)
      elseif state then
        stray(record, 'queued')
      end
    end
  end
  for _, id in ipairs(lost) do call('LPUSH', P, id) end
  return #lost > 0
end

local function take(consumer, process, nonce, limit, seconds, careful)
  -- Returns leases, and whether all waiting tasks were examined. With `careful`, a redelivered
  -- task is claimed alone: if its process is lost again, each task claimed with it counts a loss.
  local leases, looked, mine = {}, 0, P .. '.' .. consumer
  while #leases < limit and looked < LOOKS do
    local id = call('RPOPLPUSH', P, mine)
    if not id then
      local parked = call('HLEN', P .. ':parked')
      local whole = #leases > 0 or call('ZCARD', line_of('queued')) == parked
      return leases, whole or not relist()
    end
    local is_ghost = exorcise(id)
    local record = is_ghost and {} or read_record(id, WAITING, #RECORD)
    local redelivered = careful and record.lost
    looked = looked + 1
    if is_ghost then
      -- The record may be deleted by now, so it is not looked at.
      call('LREM', mine, 1, id)
    elseif record.state ~= 'queued' then
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
    elseif redelivered and #leases > 0 then
      call('LREM', mine, 1, id)
      call('RPUSH', P, id)
      break
    else
      local token = nonce .. '.' .. (#leases + 1)
      table.insert(leases, start(record, consumer, process, token, seconds))
      looked = looked - 1
      if redelivered then break end
    end
  end
  return leases, looked < LOOKS
end

local function reserve(consumer, process, nonce, limit, seconds, careful)
  local leases, done = {}, true
  hear_of(consumer, process)
  recover(expired())
  ripen()
  is_untidy = true
  -- The reply to an earlier try of this call was lost: return the leases that it made.
  if settings.again then leases = reserved(P .. '.' .. consumer, nonce, tonumber(seconds)) end
  if #leases == 0 and call('EXISTS', P .. ':paused') == 0 then
    local number, lease = tonumber(limit), tonumber(seconds)
    leases, done = take(consumer, process, nonce, number, lease, careful)
  end
  if #leases == 0 then
    mend_moments()
    return { done and soonest() or '0', leases, incarnation() }
  end
  if call('LLEN', P) > 0 then wake(1) end
  return { '', leases, incarnation() }
end

function operation.reserve(consumer, process, nonce, limit, seconds)
  return reserve(consumer, process, nonce, limit, seconds)
end

function operation.renew(id, token, seconds)
  local record = record_of(id)
  if not holds(record, token) then return 0 end
  hear_of(record.consumer or '', record.process or '')
  put(P .. ':leases', text(now + tonumber(seconds)), id)
  return 1
end

function operation.complete(id, token, state, reason, due, attempt, status, last, counts)
  local record = record_of(id)
  -- The reply to an earlier try of this call was lost.
  if settings.again and record.done == token then return record.state end
  if not holds(record, token) then return '' end
  release(record)
  remember(record, attempt)
  record.last = last
  local more = { 'status', status, 'last', last, 'done', token }
  if record.forgotten then unset(id, 'forgotten') end
  local replaced = newer(record)
  if record.cancel then
    state = 'cancelled'
    conclude(record, state, 'cancelled while running', more)
  elseif state ~= 'scheduled' then
    conclude(record, state, reason, more)
  elseif replaced then
    state = 'cancelled'
    supersede(record, replaced, true, more)
  else
    table.insert(more, 'counted')
    table.insert(more, num(record.counted, 0) + counts)
    schedule(record, num(due, now), reason, more)
    wake(1)
  end
  return state
end

function operation.complete_and_reserve(consumer, process, nonce, limit, seconds)
  local states = {}
  for i = 8, #ARGV, ENDS do
    table.insert(states, operation.complete(unpack(ARGV, i, i + ENDS - 1)))
  end
  local _, leases, since = unpack(reserve(consumer, process, nonce, limit, seconds, true))
  return { states, leases, since }
end

function operation.release(...)
  local held, waiting = { ... }, {}
  -- Release the last lease first, so that the first task ends up at the very front.
  for i = #held - 1, 1, -2 do
    local record = record_of(held[i])
    if holds(record, held[i + 1]) then
      release(record)
      if record.progress then unset(record.id, 'progress') end
      record.progress = nil
      local more = { 'number', math.max(num(record.number, 1) - 1, 0) }
      if not is_pointless(record, more) then
        queue(record, true, more)
        table.insert(waiting, 1, record.id)
      end
    end
  end
  wake(#waiting)
  return waiting
end

function operation.report(id, token, progress)
  local record = record_of(id)
  if not holds(record, token) then return 1 end
  if progress ~= '' then set(id, 'progress', progress) end
  return record.cancel and 1 or 0
end

local function answer()
  -- If the server is out of memory, it refuses the first write of a script, unless that write needs
  -- no memory, and carries out all later ones. DEL needs none: so `stage` fails, but tasks run and
  -- finish, admin calls work, and all this frees memory.
  if ARGV[1] ~= 'stage' then call('DEL', P .. ':room') end
  local done, result = pcall(function()
    local found = operation[ARGV[1]](unpack(ARGV, 3, math.min(#ARGV, 3 + CHUNK)))
    keep_house()
    return found
  end)
  -- Redis does not roll back a script that fails: write its pending changes, too.
  if resized then write_sizes() end
  if unwritten then write_lines() end
  if not done then error(result, 0) end
  if type(result) == 'table' and result.err then return result end
  return { result or '', notices }
end

-- The operations below are rare: to create these functions takes longer than most calls do.
if operation[ARGV[1]] then return answer() end

local UNKNOWN = 'UNKNOWN '

local function known(id)
  -- Returns the id of the task (of an alias: of the waiting task) and its state, or no state.
  id = call('HGET', P .. ':aliases', id) or id
  local found = redis.pcall('HMGET', task_key(id), 'state', 'body')
  if found.err or not (found[1] or found[2]) then return id end
  if num(call('ZSCORE', P .. ':expiry', id), math.huge) <= now then return id end
  return id, STATES[found[1]] and found[1] or 'unknown'
end

local function unknown(id) return redis.error_reply(UNKNOWN .. id) end

function operation.recover()
  -- Returns whether there are more, and which tasks wait again. The server answers other
  -- clients between two calls.
  return { recover(expired()) }
end

function operation.adopt(consumer, ...)
  -- Recovers the tasks of consumers of that name whose processes are known to be dead.
  local dead, ids = {}, {}
  for _, process in ipairs({ ... }) do dead[process] = true end
  for _, id in ipairs(call('LRANGE', P .. '.' .. consumer, 0, -1)) do
    local record = record_of(id)
    if record.state == 'running' and dead[record.process] then table.insert(ids, id) end
  end
  return (recover(ids))
end

function operation.processes(consumer)
  local found, seen = {}, {}
  for _, id in ipairs(call('LRANGE', P .. '.' .. consumer, 0, -1)) do
    local process = record_of(id).process
    if process and not seen[process] then
      seen[process] = true
      table.insert(found, process)
    end
  end
  return found
end

local function doubtful(batch)
  -- Returns when the batch was staged, its witness and its ids; nothing if it is unreadable.
  local ids = call('LINDEX', P .. ':batch:' .. batch, 0)
  local since, witness = string.match(call('HGET', P .. ':witness', batch) or '', '^(%S+) (.*)$')
  if ids and num(since) then return num(since), witness, ids end
  if ids then
    -- Its transaction may have been committed: an admin decides.
    operation.fail_batch(batch, 'it is unknown whether its transaction was committed')
  end
  operation.discard(batch)
  note('broken', 'batch ' .. named(batch), 'its record is damaged, taken out of what is staged')
end

function operation.in_doubt(age, after)
  -- Returns whether there are more, the place of the last one, and a page of batches that
  -- were staged at least `age` seconds ago.
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
  -- Moves wake-up keys of the wrong type aside: with them, consumers can neither wait nor wake.
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
  -- Returns nothing if there may be more expired records: call again.
  if remove_expired(PORTION) then return end
  local found = {}
  for _, state in ipairs(ORDER) do
    table.insert(found, call('ZCARD', whose(state, kind, who)))
  end
  return found
end

local BRIEF = { 'state', 'reason', 'changes', 'consumer', 'body', 'number', 'progress', 'cancel',
                'status', 'forgotten', 'place', 'user', 'person' }

local function status_of(id, whole)
  -- Returns nothing if there is no record.
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
  -- Returns nothing if there may be more expired records: call again.
  if remove_expired(PORTION) then return end
  local line, found, start, rest = whose(state, kind, who), {}, tonumber(first), tonumber(size)
  while rest > 0 do
    local page, strays = call('ZRANGE', line, start, start + math.min(rest, CHUNK) - 1), 0
    for _, member in ipairs(page) do
      local id = state == 'scheduled' and string.sub(member, 18) or member
      local status = status_of(id)
      if status and belongs(status[2], state, kind, who) then
        table.insert(found, status)
      else
        drop(line, member)
        if status then
          note('broken', named(id), 'it does not belong into a list, taken out of that')
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
    local record = record_of(id)
    if record.state == 'running' then
      local name = (record.consumer or '') .. ' ' .. (record.process or '')
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
  local record = record_of(name)
  withdraw(record)
  conclude(record, 'cancelled', reason)
  return { 'cancelled', 1 }
end

function operation.retry(id)
  local name, state = known(id)
  if not state then return unknown(id) end
  if state ~= 'failed' and state ~= 'cancelled' then return { state, 0, '' } end
  local record = record_of(name)
  local replaced = newer(record)
  if replaced then return { state, 0, replaced } end
  unset(name, 'counted', 'lost', 'cancel', 'ended')
  queue(record)
  wake(1)
  return { 'queued', 1, '' }
end

function operation.run_now(id)
  local name, state = known(id)
  if not state then return unknown(id) end
  if state == 'queued' then return { state, 1 } end
  if state ~= 'scheduled' then return { state, 0 } end
  queue(record_of(name))
  wake(1)
  return { 'queued', 1 }
end

function operation.forget_response(id)
  local name, state = known(id)
  if not state then return unknown(id) end
  if not FINISHED[state] or not get(name, 'last') then return { state, 0 } end
  unset(name, 'last', 'status')
  set(name, 'forgotten', '1')
  resize(name, weight(record_of(name)))
  return { state, 1 }
end

function operation.remove(id)
  local name, state = known(id)
  if not state then return unknown(id) end
  if STATES[state] and not FINISHED[state] then return { state, 0 } end
  forget(record_of(name))
  return { state, 1 }
end

function operation.clear()
  local cleared = {}
  local function take_away(record, popped)
    withdraw(record, popped)
    forget(record)
    table.insert(cleared, record.id)
  end
  local parked = call('HSCAN', P .. ':parked', 0, 'COUNT', PORTION)[2]
  for i = 1, #parked, 2 do
    local state, record = is_sound(parked[i + 1])
    if state == 'queued' then take_away(record) end
    call('HDEL', P .. ':parked', parked[i])
  end
  local places = call('ZRANGE', P .. ':scheduled', 0, PORTION - 1)
  for _, place in ipairs(places) do
    local state, record = is_sound(string.sub(place, 18))
    if state == 'scheduled' then take_away(record) end
    drop(P .. ':scheduled', place)
  end
  for _ = #places + 1, PORTION do
    local id = call('RPOP', P)
    if not id then break end
    -- Other entries are tombstones of withdrawn tasks, or are not tasks.
    if not exorcise(id) then
      local record = record_of(id)
      if record.state == 'queued' then
        take_away(record, true)
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
