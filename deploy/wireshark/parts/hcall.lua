-- Hypervisor calls: their registers by name, and the CRQ element in two of them.

local add = P.add
local H_SEND_CRQ = 0x108

function P.opcode_name(low, high)
  return (not high or high == 0) and OPCODES[low] or "HcallOpcode(" .. P.hex(low, high):upper():gsub("X", "x") .. ")"
end

function P.rc_name(rc)
  return RCS[rc] or string.format("HcallRc(%.0f)", rc)
end

local function word(row, entry)
  local text = (row and not row[2]) and P.decimal(entry.v, entry.h) or P.hex(entry.v, entry.h)
  return row and row[1] .. "=" .. text or text
end

-- "H_REG_CRQ unit=0x30000002 queue=0x1000 length=0x1000"; `args` is a list of {v, h}.
function P.call_text(opcode, opcode_high, args)
  local signature = (opcode_high or 0) == 0 and SIGNATURES[opcode] or nil
  local words = {P.opcode_name(opcode, opcode_high)}
  for number, entry in ipairs(args) do
    words[#words + 1] = word(signature and signature.inputs[number], entry)
  end
  return table.concat(words, " ")
end

-- "H_SUCCESS token=0x0 ..."; by name where the call is known.
function P.result_text(rc, outs, opcode)
  local signature = opcode and SIGNATURES[opcode]
  local words = {P.rc_name(rc)}
  for number, entry in ipairs(outs) do
    if not signature then
      words[#words + 1] = string.format("r%d=%s", number + 3, P.hex(entry.v, entry.h))
    elseif signature.outputs[number] and rc >= 0 then
      words[#words + 1] = word(signature.outputs[number], entry)
    end
  end
  return table.concat(words, " ")
end


-- Say at each register what the call calls it.
local function name_registers(entries, names)
  for number, entry in ipairs(entries) do
    if names[number] and entry.item then
      entry.item:append_text(" (" .. names[number][1] .. ")")
    end
  end
end

local function big_endian(low, high)
  local text = ""
  for _, half in ipairs({high or 0, low}) do
    text = text .. string.char(math.floor(half / 16777216), math.floor(half / 65536) % 256,
                               math.floor(half / 256) % 256, half % 256)
  end
  return text
end

-- The element that H_SEND_CRQ carries in its second and third argument.
function P.send_crq(ctx, tree, args, buf, at, count)
  if #args < 3 then
    P.problem(ctx, tree, "hcall", "H_SEND_CRQ without its three arguments")
    return "H_SEND_CRQ"
  end
  local element = P.buffer_of(big_endian(args[2].v, args[2].h) .. big_endian(args[3].v, args[3].h), "CRQ element")
  local text = P.element(ctx, ctx.root, element, 0, 16, function(layer)
    local unit = add(layer, "crq.unit", buf, at, count, args[1].v)
    unit:set_generated()
    add(layer, "crq.element", element, 0, 16)
  end)
  local header = element.s:byte(1)
  if header < 0x80 or header == 0xFF then
    P.problem(ctx, tree, "hcall", string.format("H_SEND_CRQ of an element with header 0x%02x", header))
  end
  return "H_SEND_CRQ unit=" .. P.hex(args[1].v, args[1].h) .. " " .. text
end

function P.body_hcall(ctx, layer, buf, message, behind)
  local opcode, high = P.value(message, "opcode"), message.opcode and message.opcode.h or 0
  local low = message.opcode and message.opcode.v or 0
  local args, text = message.args or {}, nil
  if opcode == H_SEND_CRQ then
    text = P.send_crq(ctx, layer, args, buf, behind, 0)
  else
    text = P.call_text(low, high, args)
    layer:append_text(": " .. text)
  end
  if high == 0 and SIGNATURES[low] then
    name_registers(args, SIGNATURES[low].inputs)
  end
  if high ~= 0 or not OPCODES[low] then
    P.note(layer, "a hypervisor call that is not known here")
  end
  if message.memory then
    text = text .. P.carried(ctx, ctx.root, buf, P.bytes(message, "memory"))
  end
  if P.value(message, "problem_state") ~= 0 then
    text = text .. " (problem state)"
  end
  return text
end

function P.body_hcall_reply(ctx, layer, buf, message)
  local rc = P.signed64(message, "rc")
  local text = P.result_text(rc, message.outs or {}, ctx.call and ctx.call.opcode)
  layer:append_text(": " .. text)
  if ctx.call and ctx.call.opcode then
    layer:add(P.CALL_OPCODE, UInt64.new(ctx.call.opcode, 0)):set_generated()
    name_registers(message.outs or {}, SIGNATURES[ctx.call.opcode] and SIGNATURES[ctx.call.opcode].outputs or {})
    text = P.opcode_name(ctx.call.opcode, 0) .. " = " .. text
  end
  if not RCS[rc] then
    P.note(layer, string.format("return code %.0f has no name", rc))
  elseif rc < 0 then
    P.note(layer, "refused: " .. RCS[rc])
  end
  if message.memory then
    text = text .. P.carried(ctx, ctx.root, buf, P.bytes(message, "memory"))
  end
  return text
end
