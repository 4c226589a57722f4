-- Where packets come from: link types 147 to 149, MQTT, and any dissector that is told the name "pvnet".

local USER0 = wtap and wtap.USER0 or 45
local json = Dissector.get("json")
local interface_name = Field.new("frame.interface_name")
local mqtt_topics, mqtt_messages = Field.new("mqtt.topic"), Field.new("mqtt.msg")

local function context(proto, tvb, pinfo, tree)
  local root = tree:add(proto, tvb:range())
  return {pinfo = pinfo, tree = tree, root = root, problems = 0, is_cut = tvb:len() < tvb:reported_len()}
end

local function node()
  local found = interface_name()
  return found and tostring(found.value):match("^[^/]*") or ""
end

local function columns(ctx, text, source, destination, kind)
  local pinfo = ctx.pinfo
  ctx.root:append_text(": " .. kind)
  ctx.root:add(P.KIND, kind):set_hidden(true)
  pinfo.cols.protocol = "pvnet/" .. (ctx.protocol or "envelope")
  pinfo.cols.info = text
  if source ~= "" then
    pinfo.cols.src = source
  end
  if destination ~= "" then
    pinfo.cols.dst = destination
  end
end

-- Whether the message came in something that has addresses of its own.
local function is_inside(pinfo)
  local address = tostring(pinfo.net_src)
  return address ~= "" and address ~= "NONE"
end

function P.proto.dissector(tvb, pinfo, tree)
  if tvb:len() == 0 then
    return 0
  end
  local inside = is_inside(pinfo)
  local info = inside and tostring(pinfo.cols.info) or ""
  local ctx = context(P.proto, tvb, pinfo, tree)
  local text, source, destination, kind = P.envelope(ctx, P.buffer(tvb))
  columns(ctx, text, source, destination, kind)
  if inside then
    -- Source and destination are the addresses of the carrier there.
    pinfo.cols.protocol = "MQTT/pvnet"
    pinfo.cols.info = (P.shown == pinfo.number and info .. " | " or "")
      .. string.format("%s > %s %s", source, destination, text)
    P.shown = pinfo.number
  end
  return tvb:len()
end

function P.json_proto.dissector(tvb, pinfo, tree)
  if tvb:len() == 0 then
    return 0
  end
  local ctx = context(P.json_proto, tvb, pinfo, tree)
  local text, kind = P.json_record(ctx, P.buffer(tvb))
  if json and not ctx.is_cut and (kind ~= "unknown" or ctx.problems == 0) then
    P.inner(ctx, json, tvb)
  end
  P.ends(ctx, node(), "")
  columns(ctx, text, node(), "", kind)
  return tvb:len()
end

function P.memory_proto.dissector(tvb, pinfo, tree)
  if tvb:len() == 0 then
    return 0
  end
  local ctx = context(P.memory_proto, tvb, pinfo, tree)
  local text = P.memory_record(ctx, P.buffer(tvb))
  P.ends(ctx, node(), "")
  columns(ctx, text, node(), "", "memory")
  return tvb:len()
end

-- MQTT needs no setting: after Wireshark has dissected it, payloads below pvnet/v1/LAB that are envelopes of that lab
-- are shown.  With the setting of README.md they come to P.proto directly.
local function mqtt_payloads(pinfo, tree)
  local payloads = {mqtt_messages()}
  if #payloads == 0 then
    return
  end
  local labs = {}
  for _, topic in ipairs({mqtt_topics()}) do
    local lab = tostring(topic.value):match("^pvnet/v1/([^/]+)/")
    if lab then
      labs[lab] = true
    end
  end
  if not next(labs) then
    return
  end
  for _, payload in ipairs(payloads) do
    local range = payload.range
    if range and range:len() > 0 then
      local tvb = range:tvb()
      local buf = P.buffer(tvb)
      local message = P.message("pvnet.v1.Envelope", buf, 0, buf.length)
      if message and labs[P.text(message, "lab")] then
        P.proto.dissector(tvb, pinfo, tree)
      end
    end
  end
end

function P.mqtt_proto.dissector(_, pinfo, tree)
  -- Set when a payload of this packet came to P.proto already, by a setting.
  if P.shown == nil then
    mqtt_payloads(pinfo, tree)
  end
  P.shown = nil
end

function P.proto.init()
  P.reset()
  P.shown = nil
end

local encapsulations = DissectorTable.get("wtap_encap")
encapsulations:add(USER0, P.proto)
encapsulations:add(USER0 + 1, P.json_proto)
encapsulations:add(USER0 + 2, P.memory_proto)
register_postdissector(P.mqtt_proto)
