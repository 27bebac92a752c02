-- The common part of the scripts of a Redis queue: keys, safe calls, records and transitions.
--
-- The script of the road is this file and road.lua, the script of administration this file,
-- lists.lua and admin.lua. A script makes all writes of one call, atomically.
--
-- Keys, where P is `collective.taskqueue.<queue>`, with `%2E` for each dot of the queue name: so
-- the first dot after P begins the name of a consumer, which may contain dots. Names of queues and
-- consumers have no colon. So keys of two queues are never the same:
--
--     P                     list    ids of queued tasks, the oldest at the right end
--     P.<consumer>          list    ids of the tasks that consumers of this name run
--     P:task:<id>           hash    the task: body (without its payload), payload, state, reason,
--                                   changes, number, counted, lost, token, done, consumer, process,
--                                   started, ended, key, mode, user, person, keep, tid, place,
--                                   cancel, progress, status, last, forgotten, slot
--     P:history:<id>        list    the attempts of a task, JSON
--     P:all                 zset    id → number, in the order they were added
--     P:queued              zset    id → turn, in the order they will run
--     P:scheduled           zset    number:id → when it is due
--     P:running             zset    id → number, in the order they were reserved
--     P:finished:<state>    zset    id → number, in the order they finished
--     P:of:<state>:<user>   zset    one of the five above, of one user id; without a state, all
--     P:person:<state>:<p>  zset    the same of one person, see Identity.person
--     P:leases              zset    id → when its lease expires
--     P:consumers           zset    consumer process → when it made its last call
--     P:ended               hash    minute state → how many tasks reached that state
--     P:expiry              zset    id → when the record is forgotten
--     P:sizes               hash    id → bytes of a finished record
--     P:bytes               string  the sum of P:sizes
--     P:batch:<batch>       list    a staged batch: a map with since (when it was staged), witness
--                                   (its reference), ids and number (of tasks), then lists of
--                                   tasks, each one a map; all in msgpack
--     P:staged              zset    batch → number, in the order they were staged
--     P:promoted:<batch>    string  the batch was promoted; expires
--     P:keys                hash    key → ids of the tasks that wait, the newest last
--     P:running-keys        hash    key → ids of the tasks that run
--     P:running-key         hash    id → key, of the tasks that run
--     P:parked              hash    key → id of a queued task that waits for its key
--     P:aliases             hash    id of a task skipped for its key → id of the waiting task
--     P:aliases:<id>        list    the skipped ids for one task, the oldest at the left end
--     P:tombstones          hash    id → number of its tombstones in P
--     P:foreign             list    entries that were in P and are not tasks, the newest first
--     P:broken:<name>       any     an unreadable value that was moved aside from a key
--     P:number              string  the last number that the queue gave out
--     P:incarnation         string  when the queue was first used; differs after a loss of data
--     P:paused              string  exists while the queue is paused
--     P:schedules           hash    name → a schedule: a map with last (the time of its last tick),
--                                   paused and runs (pairs of a tick and a task), in msgpack
--     P:wake                list    markers; an idle consumer blocks on it
--     P:wake:<process>      list    markers for the threads of one process; expires
--
-- Times are seconds since the epoch by the clock of the server. Keys are made from the prefix, so
-- a queue lives on one server, not in a cluster. Nothing in a key is trusted: data that these
-- scripts did not write is moved aside, and the operation goes on. An operation that may meet a
-- large backlog processes it in portions.
--
-- KEYS[1]  P
-- ARGV[1]  the operation
-- ARGV[2]  the settings, and ARGV[3] the arguments of the operation: maps, in msgpack
-- ARGV[4]  the id of the call
-- ARGV[5]  not empty if a call of this id may have been carried out before: it got no reply
-- ARGV[6…] the tasks of a batch: lists of maps, in msgpack
--
-- Returns a map, in msgpack: the result of the operation, and `notices`, other events of the call.

local P = KEYS[1]
local settings = cmsgpack.unpack(ARGV[2])
local given = cmsgpack.unpack(ARGV[3])
local call_id, repeated = ARGV[4], ARGV[5] ~= ''

local TASKS = 6         -- the first argument with tasks
local CHUNK = 1000      -- most values in one command: the stack of Lua is short
local NUMBERS = 100     -- numbers that a call takes at once
local LARGEST = 2 ^ 52  -- largest number that the queue gives out

local notices = {}
local function note(kind, id, detail) notices[#notices + 1] = { kind, id, detail or '' } end

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
-- Pending ids for the left end of the queue.
local waiting
local write_waiting
local Z = string.byte('Z')

local function call(command, key, ...)
  -- Write the pending changes before a command reads a sorted set, or the queue.
  if unwritten and string.byte(command) == Z then write_lines() end
  if waiting and key == P then write_waiting() end
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

local function put(line, member, score)
  unwritten = unwritten or {}
  local members = unwritten[line]
  if members then
    members[member] = score
  else
    unwritten[line] = { [member] = score }
  end
end

local function drop(line, member) put(line, member, false) end

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

write_waiting = function()
  local ids = waiting
  waiting = nil
  call_in_chunks('LPUSH', P, ids)
end

local function num(value, otherwise)
  local number = tonumber(value or nil)
  -- NaN and infinity are not accepted.
  if number and number > -1e15 and number < 1e15 then return number end
  return otherwise
end

local function unpacked(value)
  -- Returns a table that was packed with msgpack; nothing if the value is something else.
  local done, rest, found = pcall(cmsgpack.unpack_one, value)
  if done and rest == -1 and type(found) == 'table' then return found end
end

local time = redis.call('TIME')
local now = settings.now or tonumber(time[1]) + tonumber(time[2]) / 1000000

local function text(number) return string.format('%.6f', number) end
local function integer(number) return string.format('%d', number) end
local NOW = text(now)

local function line_of(state)
  if state == '' then return P .. ':all' end
  local is_open = state == 'queued' or state == 'running' or state == 'scheduled'
  return P .. (is_open and ':' or ':finished:') .. state
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

-- staged batches

local operation = {}
local resized, write_sizes, keep_house

local function answer()
  -- If the server is out of memory, it refuses the first write of a script, unless that write needs
  -- no memory, and carries out all later ones. DEL needs none: so `stage` fails, but tasks run and
  -- finish, admin calls work, and all this frees memory.
  if ARGV[1] ~= 'stage' then call('DEL', P .. ':room') end
  local done, result = pcall(function()
    local found = operation[ARGV[1]](given)
    if keep_house then keep_house() end
    return found
  end)
  -- Redis does not roll back a script that fails: write its pending changes, too.
  if resized then write_sizes() end
  if unwritten then write_lines() end
  if waiting then write_waiting() end
  if not done then error(result, 0) end
  if type(result) == 'table' and result.err then return result end
  return cmsgpack.pack({ result = result, notices = notices })
end

local function batch_key(batch) return P .. ':batch:' .. batch end

function operation.stage(of)
  local key, last = batch_key(of.batch), math.min(#ARGV, TASKS + CHUNK)
  -- The ids are in the first entry: `in_doubt` need not load the tasks.
  local head = cmsgpack.pack({
    since = NOW, witness = of.witness, ids = of.ids, number = of.number,
  })
  -- DEL must not be the first write of `stage` for a new batch: see `answer`.
  if call('RPUSH', key, head, unpack(ARGV, TASKS, last)) > last - TASKS + 2 then
    call('DEL', key)
    call('RPUSH', key, head, unpack(ARGV, TASKS, last))
  end
  for i = last + 1, #ARGV, CHUNK do
    call('RPUSH', key, unpack(ARGV, i, math.min(i + CHUNK - 1, #ARGV)))
  end
  put(P .. ':staged', of.batch, next_number())
end

function operation.discard(of)
  call('DEL', batch_key(of.batch))
  drop(P .. ':staged', of.batch)
end

-- To create the functions of all that follows takes longer than a call of `stage` does.
if operation[ARGV[1]] then return answer() end

-- records

local MARKERS = 16      -- most wake-up markers in their list
local HISTORY = 100     -- attempts and changes that are kept
local PORTION = 25      -- most tasks of a kind that one call processes: at most 5 ms
local OLDER = 50        -- most tasks at the front that stay before a task that was parked
local LOOKS = 200       -- most entries one call examines to find tasks that may run
local FOREIGN = 10000   -- entries kept that are not tasks
local RESULTS = 3       -- calls whose results a task remembers
local HOUR = 3600       -- seconds that a consumer is remembered
local WEEK = 604800     -- seconds that an unreadable record is kept
local WEIGHT = 500      -- bytes of a record without its large fields

local STATES = { queued = true, scheduled = true, running = true,
                 succeeded = true, failed = true, cancelled = true }
local FINISHED = { succeeded = true, failed = true, cancelled = true }

-- The fields of a record: those that a staged task brings, except its id and due time; those that
-- a transition needs; those that a lease needs.
local STAGED = { 'body', 'payload', 'key', 'mode', 'user', 'person', 'keep' }
local SMALL = { 'state', 'changes', 'place', 'user', 'person', 'key', 'mode', 'tid', 'keep',
                'token', 'done', 'number', 'counted', 'lost', 'consumer', 'process', 'started',
                'cancel', 'forgotten', 'progress', 'slot' }
local LEASED = { 'state', 'changes', 'user', 'person', 'key', 'mode', 'tid', 'token', 'number',
                 'counted', 'lost', 'progress', 'slot', 'body', 'payload' }

local function task_key(id) return P .. ':task:' .. id end
local function get(id, field) return call('HGET', task_key(id), field) end
local function set(id, ...) call('HSET', task_key(id), ...) end
local function unset(id, ...) call('HDEL', task_key(id), ...) end

local function write_fields(id, fields)
  local values, n = {}, 0
  for name, value in pairs(fields) do
    values[n + 1], values[n + 2] = name, value
    n = n + 2
  end
  call('HSET', task_key(id), unpack(values))
end

local function read_record(id, names)
  -- Reads fields with one command. The record has only its id if the key cannot be read.
  local found = redis.pcall('HMGET', task_key(id), unpack(names))
  local record = { id = id }
  if found.err then return record end
  for i = 1, #names do record[names[i]] = found[i] or nil end
  return record
end

local function record_of(id) return read_record(id, SMALL) end

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

local function put_in_lines(record, state, member, score)
  -- Changes the lines of a state for a task: of all tasks, of its user, of its person.
  put(line_of(state), member, score)
  if record.user then put(P .. ':of:' .. state .. ':' .. record.user, member, score) end
  if record.person then put(P .. ':person:' .. state .. ':' .. record.person, member, score) end
end

local function wake(number)
  if number == 0 then return end
  local missing = math.min(number, MARKERS) - call('LLEN', P .. ':wake')
  for _ = 1, missing do call('LPUSH', P .. ':wake', '1') end
end

-- results of calls: a repeated call returns what the unanswered call of the same id has done

local function act(token) return call_id .. ' ' .. (token or '-') .. ' ' end

local function result_of(record, token)
  -- Returns what this call has done to a task before; nothing if it did nothing. A call may name
  -- a task twice, with different leases: `token` says which one, for those that need a lease.
  local _, last = string.find(record.done or '', act(token), 1, true)
  return last and string.match(record.done, '^%a*', last + 1)
end

local function remembered(record, result, token)
  -- Returns the value of `done` of a task that this call changes.
  local done, kept = act(token) .. result .. ';', record.done or ''
  for _ = 2, RESULTS do
    local last, rest = string.match(kept, '^([^;]*;)(.*)$')
    if not last then break end
    done, kept = done .. last, rest
  end
  return done
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

write_sizes = function()
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
  put_in_lines(record, state, state == 'scheduled' and record.place or record.id, false)
  if FINISHED[state] then
    resize(record.id, 0)
    drop(P .. ':expiry', record.id)
  end
end

local function enter(record, state, score, reason, more, place)
  -- `more`: other fields and their values, to write with the same command.
  local fields, is_new = more or {}, not record.state
  if not is_new then leave(record, record.state) end
  if record.place then unset(record.id, 'place') end
  record.state, record.reason, record.place = state, reason or '', place
  record.changes = changed(record.changes or '', state)
  fields.state, fields.changes, fields.place = state, record.changes, place
  if not is_new or record.reason ~= '' then fields.reason = record.reason end
  write_fields(record.id, fields)
  put_in_lines(record, state, place or record.id, score)
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
  enter(record, 'queued', front and -number or number, '', more)
  if front then
    call('RPUSH', P, record.id)
  else
    waiting = waiting or {}
    waiting[#waiting + 1] = record.id
  end
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
  put_in_lines(record, '', id, false)
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

local ended, is_untidy = {}, false

local function trim(state, ends)
  -- Forgets surplus records, at most PORTION more than this call has added.
  local line = line_of(state)
  local surplus = math.min(call('ZCARD', line) - settings.max_finished, PORTION + ends)
  if surplus <= 0 then return end
  for _, id in ipairs(call('ZRANGE', line, 0, surplus - 1)) do forget_finished(id, line) end
end

keep_house = function()
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
  local id, fields = record.id, more or {}
  fields.ended = NOW
  enter(record, state, next_number(), reason, fields)
  -- A task that has succeeded cannot be retried, so its payload is not needed.
  if state == 'succeeded' then unset(id, 'payload') end
  resize(id, weight(record))
  local keep = state == 'succeeded' and settings.keep_succeeded or settings.keep_failed
  keep = math.max(num(record.keep, keep), settings.linger)
  put(P .. ':expiry', id, text(now + keep))
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

local function create(task, tid)
  -- Returns a record, and its fields, which `enter` writes.
  local record, fields = { id = task.id, tid = tid }, { tid = tid }
  for i = 1, #STAGED do fields[STAGED[i]] = task[STAGED[i]] end
  record.key, record.mode, record.keep = fields.key, fields.mode, fields.keep
  record.user, record.person = fields.user, fields.person
  put_in_lines(record, '', task.id, next_number())
  return record, fields
end

local function is_head(head)
  return head and type(head.ids) == 'string' and num(head.since) and num(head.number)
end

local function add_tasks(tasks, portion)
  -- Adds the tasks of a packed list; returns whether the list can be read.
  local found = unpacked(portion)
  if not found then return false end
  for _, task in ipairs(found) do
    if type(task) ~= 'table' or type(task.id) ~= 'string' then return false end
    for i = 1, #STAGED do
      local value = task[STAGED[i]]
      if value and type(value) ~= 'string' then return false end
    end
    tasks[#tasks + 1] = task
  end
  return true
end

local function staged(batch)
  -- Returns the tasks of a batch; none if the batch is lost or damaged.
  local key, tasks = batch_key(batch), {}
  local found = call('LRANGE', key, 0, -1)
  if #found == 0 then return tasks end
  local head = unpacked(found[1])
  local sound = is_head(head)
  for i = 2, #found do sound = sound and add_tasks(tasks, found[i]) end
  if sound and #tasks == num(head.number) then return tasks end
  note('moved', key, move_aside(key))
  operation.discard({ batch = batch })
  return {}
end

local function settle(batch)
  operation.discard({ batch = batch })
  call('SET', P .. ':promoted:' .. batch, '1', 'EX', settings.remember)
end

local function fail_tasks(batch, tasks, reason)
  for _, task in ipairs(tasks) do
    local id = task.id
    if is_there(id) then
      note('known', id)
    else
      -- The task is not in the list and does not claim its key, so it blocks no other task.
      local record, fields = create(task)
      enter(record, 'queued', 0, '', fields)
      conclude(record, 'failed', reason)
      note('failed', id, reason)
    end
  end
  -- A later `promote` of the batch does nothing: an admin decides now.
  if #tasks > 0 then settle(batch) end
end

function operation.fail_batch(of) fail_tasks(of.batch, staged(of.batch), of.reason) end

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
  local more = { lost = lost, slot = record.slot or 'none' }
  if is_pointless(record, more) then return end
  -- A task with a slot is delivered once more: its consumer looks whether it has committed.
  local looks = more.slot ~= 'none' and 1 or 0
  if lost >= settings.max_deliveries + looks then
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
          put(P .. ':leases', id, text(now + settings.lease))
        elseif state then
          stray(record, 'running')
        end
      end
    end
    for _, id in ipairs(call('ZRANGE', P .. ':leases', 0, CHUNK)) do
      if not call('ZSCORE', line_of('running'), id) then
        local state, record = is_sound(id)
        if state == 'running' then
          enter(record, state, next_number())
        elseif state then
          stray(record, 'running')
        end
      end
    end
  end
  return call('ZRANGEBYSCORE', P .. ':leases', '-inf', NOW, 'LIMIT', 0, LOOKS)
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
