-- The envelope: who says what to whom, the body by its kind, and which reply belongs to which call.

local add = P.add
local ENVELOPE = "pvnet.v1.Envelope"
local calls, answers, called_by

function P.reset()
  calls, answers, called_by = {}, {}, {}
  P.forget_memory()
end
P.reset()

-- Run another dissector on bytes inside, and keep what the columns say of the message.
function P.inner(ctx, dissector, tvb)
  local pinfo = ctx.pinfo
  local src, dst, text = pinfo.src, pinfo.dst, ""
  pcall(Dissector.call, dissector, tvb, pinfo, ctx.tree)
  text = tostring(pinfo.cols.info)
  pinfo.src, pinfo.dst = src, dst
  return text ~= "" and text or string.format("%d bytes", tvb:len())
end

local function name_of(field, message)
  return P.name(field, P.value(message, field:match("[^.]+$")))
end

local function device_io(ctx, _, buf, message)
  local operation, handle = P.value(message, "operation"), P.value(message, "handle")
  local text = string.format("%s handle %.0f", P.name("device.operation", operation), handle)
  local at, count = P.bytes(message, "data")
  if operation == 1 then
    return "OPEN " .. P.text(message, "path")
  elseif operation == 2 then
    return text .. " " .. P.name("device.command", P.value(message, "command")) .. P.carried(ctx, ctx.root, buf, at, count)
  elseif operation == 3 then
    return string.format("%s, up to %.0f bytes", text, P.value(message, "count"))
  elseif operation == 4 then
    return string.format("%s, %d bytes%s", text, count, P.carried(ctx, ctx.root, buf, at, count))
  elseif operation == 7 then
    return string.format("INTERRUPT of call %.0f", P.value(message, "interrupts"))
  end
  return text
end

local function device_reply(ctx, layer, buf, message)
  local result = P.signed32(message, "result")
  local text = result < 0 and "-" .. P.errno(-result) or tostring(result)
  if result < 0 then
    P.note(layer, "refused: " .. P.errno(-result))
  end
  return text .. P.carried(ctx, ctx.root, buf, P.bytes(message, "data"))
end

local function management(ctx, layer, _, message)
  local command = message.chosen.command
  if not command then
    P.problem(ctx, layer, "mgmt", "management without a command that is known here")
    return "no command"
  end
  local inner, words = message[command].m, {command}
  for _, name in ipairs({"verb", "node", "name", "bus", "device", "mdev", "switch", "kind"}) do
    local entry = inner[name]
    if entry and entry.v and entry.v ~= "" and not inner[name][1] then
      local full = "mgmt." .. command .. "." .. name
      words[#words + 1] = type(entry.v) == "number" and P.name(full, entry.v) or entry.v
    end
  end
  if inner.opcode then
    words[#words + 1] = P.opcode_name(inner.opcode.v, inner.opcode.h)
  end
  return table.concat(words, " ")
end

local function unit(message)
  return string.format("unit=0x%x", P.value(message, "unit"))
end

-- Text of a body whose own fields are shown already; more layers go to ctx.root.
local TEXTS = {
  hcall = P.body_hcall,
  hcall_reply = P.body_hcall_reply,
  vbus_attach = P.body_vbus_attach,
  vbus_call = P.body_vbus_call,
  vbus_reply = P.body_vbus_reply,
  vbus_doorbell = P.body_vbus_doorbell,
  vbus_irq = P.body_vbus_irq,
  vbus_update = P.body_vbus_update,
  device_io = device_io,
  device_reply = device_reply,
  management = management,
  crq_progress = function(_, _, _, message)
    return string.format("%s consumed %.0f", unit(message), P.value(message, "consumed"))
  end,
  irq = function(_, _, _, message) return unit(message) .. " irq" end,
  memory_read = function(_, _, _, message)
    local address = message.address or {v = 0}
    return string.format("read %.0f bytes at %s", P.value(message, "length"), P.hex(address.v, address.h))
  end,
  memory_write = function(ctx, _, buf, message)
    local address, at, count = message.address or {v = 0}, P.bytes(message, "data")
    return string.format("write %d bytes at %s%s", count, P.hex(address.v, address.h),
                         P.carried(ctx, ctx.root, buf, at, count))
  end,
  memory_reply = function(ctx, _, buf, message)
    local wrong, at, count = P.signed32(message, "error"), P.bytes(message, "data")
    return (wrong ~= 0 and P.errno(wrong) or count .. " bytes") .. P.carried(ctx, ctx.root, buf, at, count)
  end,
  management_reply = function(_, layer, _, message)
    local status = name_of("mgmt.status", message)
    if P.value(message, "status") ~= 0 then
      P.note(layer, "refused: " .. status)
    end
    return status .. " " .. P.text(message, "text")
  end,
  mdev_open = function(_, _, _, message) return "open " .. P.text(message, "name") end,
  mdev_reply = function(_, _, _, message)
    local result = P.value(message, "result")
    return string.format("%s session %.0f %s", result ~= 0 and P.errno(result) or "0", P.value(message, "session"),
                         P.text(message, "text"))
  end,
  mdev_message = function(ctx, _, buf, message)
    local at, count = P.bytes(message, "message")
    local text
    text, ctx.vfio = P.vfio(ctx, ctx.root, buf, at, count)
    ctx.session = P.value(message, "session")
    return string.format("session %.0f %s", ctx.session, text)
  end,
  mdev_irq = function(_, _, _, message)
    return string.format("session %.0f irq target %.0f", P.value(message, "session"), P.value(message, "target"))
  end,
  mdev_close = function(_, _, _, message)
    return string.format("session %.0f close %s", P.value(message, "session"), P.text(message, "reason"))
  end,
  mdev_transfer = function(_, _, _, message)
    return string.format("transfer %.0f %s %s", P.value(message, "transfer"), name_of("mdev.step", message),
                         P.text(message, "name"))
  end,
  lifecycle = function(_, _, _, message)
    return name_of("lifecycle.phase", message) .. " " .. P.text(message, "role") .. " " .. P.text(message, "text")
  end,
  refusal = function(_, layer, _, message)
    P.note(layer, "refused")
    return "refused: " .. P.text(message, "text")
  end,
}

local function crq_entry(ctx, buf, message, stop)
  local at, count = P.bytes(message, "element")
  local text = P.element(ctx, ctx.root, buf, at, count, function(layer)
    P.show(layer, "pvnet.v1.CrqEntry", "crq", buf, message, stop)
  end)
  return string.format("%s slot %.0f %s%s", unit(message), P.value(message, "slot"), text,
                       P.value(message, "irq") ~= 0 and " irq" or "")
end

local TYPE_OF = {}
for _, field in ipairs(MESSAGES[ENVELOPE]) do
  if field.oneof == "body" then
    TYPE_OF[field[2]] = field.type
  end
end

local function body_text(ctx, buf, name, entry)
  if name == "crq_entry" then
    return crq_entry(ctx, buf, entry.m, entry.stop)
  elseif name == "net_frames" then
    return P.net_frames(ctx, buf, entry.m)
  end
  local layer_name = BODIES[name].layer
  local layer = P.layer(ctx, ctx.root, layer_name, buf, entry.o, entry.n)
  P.show(layer, TYPE_OF[name], layer_name, buf, entry.m, entry.stop)
  local text = TEXTS[name] and TEXTS[name](ctx, layer, buf, entry.m, entry.stop) or name:gsub("_", " ")
  return text
end

-- What a call and its reply have in common.
local function pair_key(ctx, message, name)
  local source, destination = P.text(message, "source"), P.text(message, "destination")
  local is_reply = BODIES[name] and BODIES[name].reply
  if name == "mdev_message" then
    local head = ctx.head
    if not head or not (head.is_reply or head.wants_reply) then
      return nil
    end
    if head.is_reply then
      source, destination = destination, source
    end
    return string.format("vfio %s>%s %.0f#%d", source, destination, head.session, head.id), head.is_reply
  end
  local call = message.correlation
  if not call or (call.v == 0 and call.h == 0) then
    return nil
  end
  local boot = message[is_reply and "destination_incarnation" or "source_incarnation"] or {v = 0, h = 0}
  if is_reply then
    source, destination = destination, source
  end
  return string.format("%s.%s>%s#%s", source, P.hex(boot.v, boot.h), destination, P.hex(call.v, call.h)), is_reply
end

-- Ids of a vfio-user message, before it is shown.
local function vfio_head(buf, entry)
  local at, count = P.bytes(entry.m, "message")
  if count < 16 then
    return nil
  end
  local flags = P.le32(buf.s, at + 8)
  return {
    id = P.le16(buf.s, at), is_reply = flags % 16 == 1, wants_reply = flags % 16 == 0 and not P.has(flags, 16),
    session = P.value(entry.m, "session"),
  }
end

local function remember(ctx, buf, message, name, entry)
  local number = ctx.pinfo.number
  if name == "mdev_message" then
    ctx.head = vfio_head(buf, entry)
  end
  local key, is_reply = pair_key(ctx, message, name)
  if not key then
    return
  end
  if is_reply then
    local call = called_by[number .. key] or calls[key]
    if call and call.number ~= number then
      ctx.call = call
      if not ctx.pinfo.visited then
        called_by[number .. key], answers[call.number .. key] = call, answers[call.number .. key] or number
      end
    end
  else
    ctx.answer = answers[number .. key]
    if not ctx.pinfo.visited then
      local opcode = name == "hcall" and P.value(entry.m, "opcode") or nil
      calls[key] = {number = number, time = ctx.pinfo.abs_ts, opcode = opcode}
    end
  end
end

local function show_pair(ctx)
  if ctx.answer then
    ctx.root:add(P.REPLY_IN, ctx.answer):set_generated()
  elseif ctx.call then
    ctx.root:add(P.CALL_IN, ctx.call.number):set_generated()
    local took = ctx.pinfo.abs_ts - ctx.call.time
    if took >= 0 then
      local seconds = math.floor(took)
      ctx.root:add(P.LATENCY, NSTime.new(seconds, math.floor((took - seconds) * 1e9))):set_generated()
    end
  end
end

local function ends(ctx, source, destination)
  for _, row in ipairs({{P.SOURCE, source}, {P.DESTINATION, destination}, {P.NODE, source}, {P.NODE, destination}}) do
    if row[2] ~= "" then
      ctx.root:add(row[1], row[2]):set_hidden(true)
    end
  end
end
P.ends = ends

-- Show an envelope below ctx.root; return its text, its ends and its kind.
function P.envelope(ctx, buf)
  local message, wrong = P.message(ENVELOPE, buf, 0, buf.length)
  if not message then
    if ctx.is_cut then
      ctx.root:append_text(" (cut by the recording)")
    else
      P.problem(ctx, ctx.root, "envelope", "not a pvnet.v1.Envelope: " .. wrong)
    end
    return "envelope of " .. buf.length .. " bytes", "", "", "unknown"
  end
  local name, source, destination = message.chosen.body, P.text(message, "source"), P.text(message, "destination")
  ends(ctx, source, destination)
  local layer = P.layer(ctx, ctx.root, "envelope", buf, 0, buf.length)
  layer:append_text(string.format(": %s > %s", source, destination))
  P.show(layer, ENVELOPE, "envelope", buf, message, buf.length)
  if P.value(message, "schema") ~= SCHEMA_VERSION then
    P.problem(ctx, layer, "envelope", string.format("schema version %.0f: version %d is known here",
                                                    P.value(message, "schema"), SCHEMA_VERSION))
  end
  if not name then
    P.problem(ctx, layer, "envelope", "no body that is known here")
    return "unknown body", source, destination, "unknown"
  end
  local entry = message[name]
  add(layer, "envelope.body", buf, entry.o, entry.n, name)
  remember(ctx, buf, message, name, entry)
  show_pair(ctx)
  if BODIES[name].layer == "vbus" then
    P.remember_memory(ctx, name, message, entry.m, buf)
  end
  local text = body_text(ctx, buf, name, entry)
  if name == "link_ack" then
    text = string.format("ack %.0f of stream %.0f", P.value(message, "ack"), P.value(message, "ack_stream"))
  elseif name == "link_reset" then
    text = string.format("reset, stream %.0f", P.value(message, "stream"))
  end
  return text, source, destination, name
end
