"use strict";
// Draws the capture that stands in the page.  All text goes in as text, never as markup.
(() => {
  // Columns of an event (chart_html._row).
  const NUMBER = 0, TIME = 1, SOURCE = 2, TARGET = 3, CHANNEL = 4, KIND = 5, LABEL = 6, TEXT = 7, FLAGS = 8, ASKED = 9,
    ASKED_NUMBER = 10, CALL = 11, LATENCY = 12, ERROR = 13, WRONG = 14, SIZE = 15, INTERFACE = 16;
  const IS_REPLY = 1, IS_OPEN = 2;
  const ROW = 24, CHAR = 6.65, LEFT = 108, PAD = 26, LONGEST_BAR = 2000, BUCKET = 64;
  const SVG = "http://www.w3.org/2000/svg";
  const by = (id) => document.getElementById(id);

  function node(name, attributes, ...inside) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...inside);
    return made;
  }
  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }
  function duration(ns) {
    for (const [unit, size] of [["s", 1e9], ["ms", 1e6], ["us", 1e3]])
      if (Math.abs(ns) >= size) return `${Number((ns / size).toPrecision(3))} ${unit}`;
    return `${ns} ns`;
  }
  const fit = (text, room) => (text.length <= room ? text : room > 1 ? `${text.slice(0, room - 1)}…` : "");
  const seconds = (ns) => (ns / 1e9).toFixed(page.span >= 1e11 ? 3 : page.span >= 1e6 ? 6 : 9);

  async function unpack(base64) {
    const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  const blocks = JSON.parse(by("data").textContent);
  const details = new Map();
  let page, events, texts, haystack;
  let rows = [], rowOf = new Map(), bars = new Map(), matches = new Set(), order = [];
  let scale = 1, chosen = -1, start = -Infinity, end = Infinity;
  const opened = new Set(), hiddenChannels = new Set(), hiddenNodes = new Set();

  // What is shown: a list of rows, each an event or the head of a repeat.
  function isShown(event) {
    if (event[TIME] < start || event[TIME] > end || hiddenChannels.has(event[CHANNEL])) return false;
    if (hiddenNodes.has(event[SOURCE]) || hiddenNodes.has(event[TARGET])) return false;
    return !by("bad").checked || event[WRONG].length > 0 || texts[event[ERROR]] !== "";
  }
  function rebuild() {
    const words = by("search").value.trim().toLowerCase();
    const only = by("only").checked && words !== "";
    const flat = only || by("bad").checked;
    matches = new Set();
    order = [];
    if (words) events.forEach((event, i) => { if (isShown(event) && hay(i).includes(words)) matches.add(i); });
    rows = [];
    let at = 0;
    const push = (i, fold) => {
      if (isShown(events[i]) && (!only || matches.has(i))) rows.push({ event: i, fold });
    };
    const folds = flat ? [] : page.folds;
    folds.forEach((fold, number) => {
      const [first, period, count] = fold;
      for (; at < first; at++) push(at, -1);
      const last = first + period * count;
      let some = false;
      for (let i = first; i < last && !some; i++) some = isShown(events[i]);
      if (some) rows.push({ event: -1, fold: number });
      const until = opened.has(number) ? last : first + period;
      for (; at < until; at++) push(at, number);
      at = last;
    });
    for (; at < events.length; at++) push(at, -1);
    rowOf = new Map();
    rows.forEach((row, number) => { if (row.event >= 0) rowOf.set(row.event, number); });
    order = [...matches];
    by("found").textContent = words ? `${matches.size} matches` : `${rows.length} rows`;
    placeBars();
    drawHead();
    drawStrip();
    draw(true);
  }
  function hay(i) {
    if (haystack[i] === undefined) {
      const event = events[i];
      const ends = `${page.nodes[event[SOURCE]] ?? ""} ${page.nodes[event[TARGET]] ?? ""}`;
      haystack[i] = `#${event[NUMBER]} ${ends} ${texts[event[KIND]]} ${texts[event[TEXT]]} ${texts[event[LABEL]]} ` +
        `${texts[event[INTERFACE]]} ${event[WRONG].join(" ")}`;
      haystack[i] = haystack[i].toLowerCase();
    }
    return haystack[i];
  }
  // Calls under way, by stretches of rows, so that drawing a screen looks at few of them.
  function placeBars() {
    bars = new Map();
    const lanes = new Map();
    const pairs = [];
    rows.forEach((row, bottom) => {
      const event = events[row.event];
      if (!event || event[ASKED] < 0 || event[TARGET] < 0) return;
      const top = rowOf.get(event[ASKED]);
      if (top !== undefined && top < bottom && bottom - top <= LONGEST_BAR) pairs.push([top, bottom, row.event]);
    });
    pairs.sort((a, b) => a[0] - b[0]);
    for (const [top, bottom, reply] of pairs) {
      const where = events[reply][SOURCE];
      if (!lanes.has(where)) lanes.set(where, []);
      const free = lanes.get(where);
      let lane = free.findIndex((until) => until <= top);
      if (lane < 0) lane = free.length < 16 ? free.length : 15;
      free[lane] = bottom;
      for (let bucket = Math.floor(top / BUCKET); bucket <= Math.floor(bottom / BUCKET); bucket++) {
        if (!bars.has(bucket)) bars.set(bucket, []);
        bars.get(bucket).push([top, bottom, Math.min(lane, 4), reply]);
      }
    }
  }

  // Drawing.
  const x = (number) => (number < 0 ? LEFT : LEFT + (page.xs[number] - LEFT) * scale);
  const height = () => ROW * Math.max(scale, 0.75);
  const width = () => Math.max(LEFT + (page.width - LEFT) * scale, 400);

  function drawHead() {
    const head = by("head");
    head.setAttribute("width", width());
    head.replaceChildren(node("text", { x: LEFT - 20, y: 21, "text-anchor": "end", class: "dim" }, "time (s)"));
    page.nodes.forEach((name, i) => {
      const gap = Math.min(i ? x(i) - x(i - 1) : 200, i + 1 < page.xs.length ? x(i + 1) - x(i) : 200);
      const text = fit(name, Math.floor((gap - 18) / CHAR));
      const half = (text.length * CHAR) / 2 + 8;
      const box = node("g", { tabindex: 0, role: "button", style: "cursor:pointer" },
        node("title", {}, `${name}: click to hide or show its messages`),
        node("rect", { class: "box", x: x(i) - half, y: 4, width: 2 * half, height: 26, rx: 4,
          "fill-opacity": hiddenNodes.has(i) ? 0.3 : 1 }),
        node("text", { x: x(i), y: 21, "text-anchor": "middle", "font-weight": "bold",
          "text-decoration": hiddenNodes.has(i) ? "line-through" : "none" }, text));
      const toggle = () => { if (!hiddenNodes.delete(i)) hiddenNodes.add(i); rebuild(); };
      box.addEventListener("click", toggle);
      box.addEventListener("keydown", (key) => { if (key.key === "Enter") toggle(); });
      head.append(box);
    });
  }
  let drawn = [-1, -1];
  function draw(again) {
    const scroll = by("scroll"), row = height();
    const first = Math.max(Math.floor(scroll.scrollTop / row) - 10, 0);
    const last = Math.min(first + Math.ceil((scroll.clientHeight || 800) / row) + 20, rows.length);
    if (!again && first === drawn[0] && last === drawn[1]) return;
    drawn = [first, last];
    by("room").style.height = `${rows.length * row + 20}px`;
    by("room").style.width = `${width()}px`;
    const view = by("view");
    view.style.top = `${first * row}px`;
    view.setAttribute("width", width());
    view.setAttribute("height", Math.max(last - first, 1) * row + 4);
    const parts = [];
    const y = (number) => (number - first) * row + row - 6;
    for (let i = first; i < last; i++)
      if (rows[i].fold >= 0)
        parts.push(node("rect", { class: "frame", x: LEFT - 10, y: (i - first) * row, width: width() - LEFT, height: row }));
    page.nodes.forEach((_, i) =>
      parts.push(node("path", { class: "life", d: `M${x(i)} 0V${(last - first) * row}` })));
    const seen = new Set();
    for (let bucket = Math.floor(first / BUCKET); bucket <= Math.floor(last / BUCKET); bucket++)
      for (const [top, bottom, lane, reply] of bars.get(bucket) ?? []) {
        if (seen.has(reply) || bottom < first || top > last) continue;
        seen.add(reply);
        const colour = page.channels[events[reply][CHANNEL]][1];
        parts.push(node("rect", { x: x(events[reply][SOURCE]) - 4 + lane * 5, y: y(top), width: 8,
          height: y(bottom) - y(top), fill: colour, "fill-opacity": 0.28, stroke: colour }));
      }
    for (let i = first; i < last; i++) parts.push(rows[i].event < 0 ? foldRow(rows[i].fold, y(i), row) : eventRow(rows[i], y(i), row));
    view.replaceChildren(...parts);
  }
  function foldRow(number, y, row) {
    const [first, period, count] = page.folds[number];
    const took = events[first + period * count - 1][TIME] - events[first][TIME];
    const calls = new Set();
    for (let i = first; i < first + period; i++) calls.add(texts[events[i][CALL]] || texts[events[i][KIND]]);
    const text = `${opened.has(number) ? "▾" : "▸"} ×${count}: ${fit([...calls].join(", "), 80)} ` +
      `(${period * count} messages, ${duration(took)})`;
    const made = node("g", { class: "fold" }, node("rect", { class: "hit", x: 0, y: y - row + 6, width: width(), height: row }),
      node("text", { x: LEFT, y: y - 3, class: "fold" }, text));
    made.addEventListener("click", () => { if (!opened.delete(number)) opened.add(number); rebuild(); });
    return made;
  }
  function eventRow(place, y, row) {
    const event = events[place.event], colour = page.channels[event[CHANNEL]][1];
    const isWrong = event[WRONG].length > 0, error = texts[event[ERROR]];
    const from = x(event[SOURCE]), isLocal = event[TARGET] < 0 || event[TARGET] === event[SOURCE];
    const to = isLocal ? from : x(event[TARGET]);
    let extra = event[LATENCY] !== null ? ` · ${duration(event[LATENCY])}` : event[FLAGS] & IS_OPEN ? " · no reply" : "";
    const room = Math.floor((isLocal ? width() - from - 30 : Math.abs(to - from) - PAD) / CHAR);
    if (extra.length + 6 > room) extra = "";
    const mark = isWrong ? "! " : error ? "✗ " : "";
    const label = fit(mark + texts[event[LABEL]], room - extra.length) + extra;
    const style = `halo${isWrong ? " wrong" : error ? " err" : ""}`;
    const state = `row${place.event === chosen ? " chosen" : matches.has(place.event) ? " found" : ""}`;
    const made = node("g", { class: state },
      node("rect", { class: "hit", x: 0, y: y - row + 6, width: width(), height: row }),
      node("text", { x: LEFT - 20, y, "text-anchor": "end", class: isWrong ? "wrong" : "dim" }, seconds(event[TIME])),
      node("title", {}, `#${event[NUMBER]} ${texts[event[TEXT]]}${event[WRONG].map((text) => `\n! ${text}`).join("")}`));
    if (isLocal) {
      if (event[SOURCE] >= 0) made.append(node("circle", { cx: from, cy: y - 4, r: 4, fill: colour }));
      made.append(node("text", { x: from + 12, y, class: style }, label));
    } else {
      const sign = to > from ? 1 : -1;
      made.append(
        node("path", { d: `M${from} ${y}H${to - 6 * sign}`, stroke: colour, "stroke-width": 1.4, fill: "none",
          "stroke-dasharray": event[FLAGS] & IS_REPLY ? "6 3" : "none" }),
        node("path", { d: `M${to - sign} ${y}l${-8 * sign} -4v8z`, fill: colour }),
        node("text", { x: (from + to) / 2, y: y - 5, "text-anchor": "middle", class: style }, label));
    }
    made.addEventListener("click", () => choose(place.event));
    return made;
  }
  function drawStrip() {
    const strip = by("strip"), [step, totals] = page.density, high = Math.max(1, ...totals);
    strip.setAttribute("viewBox", `0 0 ${Math.max(totals.length, 1)} 40`);
    const bar = totals.map((count, i) => (count ? `M${i} 40v${-Math.max((count / high) * 36, 1)}h.9V40z` : "")).join("");
    strip.replaceChildren(node("path", { d: bar, fill: "#8f949e" }));
    if (start > -Infinity || end < Infinity) {
      const left = Math.max(start, 0) / step, right = Math.min(end, totals.length * step) / step;
      strip.append(node("rect", { x: left, y: 0, width: Math.max(right - left, 0.3), height: 40, "fill-opacity": 0.18 }));
    }
  }

  // One message in full.
  async function choose(i) {
    chosen = i;
    draw(true);
    const event = events[i], side = by("side");
    const title = element("h2", `#${event[NUMBER]} ${texts[event[TEXT]]}`);
    const about = element("table");
    const add = (name, value, className) => {
      const row = element("tr");
      row.append(element("td", name), element("td", value, className));
      about.append(row);
    };
    add("time", `${seconds(event[TIME])} s`);
    if (event[SOURCE] >= 0) add("from", page.nodes[event[SOURCE]]);
    if (event[TARGET] >= 0) add("to", page.nodes[event[TARGET]]);
    add("kind", texts[event[KIND]]);
    add("interface", texts[event[INTERFACE]]);
    add("size", `${event[SIZE]} bytes`);
    if (event[ASKED_NUMBER]) add("reply to", `#${event[ASKED_NUMBER]} ${texts[event[CALL]]}`);
    if (event[LATENCY] !== null) add("latency", duration(event[LATENCY]));
    if (event[FLAGS] & IS_OPEN) add("reply", "none in this capture");
    if (texts[event[ERROR]]) add("error", texts[event[ERROR]], "wrong");
    for (const text of event[WRONG]) add("violation", text, "wrong");
    side.replaceChildren(title, about);
    const found = await detail(i);
    if (chosen !== i) return;
    if (!found) {
      side.append(element("p", "Its fields and bytes are not in this page."));
      return;
    }
    const [layers, hex, comment] = found;
    if (comment) add("comment", comment);
    for (const [name, summary, fields] of layers) {
      side.append(element("h3", summary ? `${name}: ${summary}` : name));
      const table = element("table");
      for (const [field, text] of fields) {
        const row = element("tr");
        row.append(element("td", field), element("td", text));
        table.append(row);
      }
      side.append(table);
    }
    const kept = hex.length / 2;
    side.append(element("h3", kept < event[SIZE] ? `First ${kept} of ${event[SIZE]} bytes` : "Bytes"), element("pre", dump(hex)));
  }
  function dump(hex) {
    const out = [];
    for (let at = 0; at < hex.length; at += 32) {
      const pairs = hex.slice(at, at + 32).match(/../g);
      const chars = pairs.map((pair) => parseInt(pair, 16)).map((c) => (c >= 32 && c < 127 ? String.fromCharCode(c) : "."));
      out.push(`${(at / 2).toString(16).padStart(6, "0")}  ${pairs.join(" ").padEnd(48)} ${chars.join("")}`);
    }
    return out.join("\n");
  }
  async function detail(i) {
    const number = Math.floor(i / page.block) + 1;
    if (number >= blocks.length) return null;
    if (!details.has(number)) {
      if (details.size > 16) details.clear();
      details.set(number, unpack(blocks[number]));
    }
    return (await details.get(number))[i % page.block];
  }
  function show(i) {
    const fold = page.folds.findIndex(([first, period, count]) => i >= first + period && i < first + period * count);
    if (!rowOf.has(i) && fold >= 0) { opened.add(fold); rebuild(); }
    const row = rowOf.get(i);
    if (row === undefined) return;
    const scroll = by("scroll"), y = row * height();
    if (y < scroll.scrollTop || y > scroll.scrollTop + scroll.clientHeight - 80)
      scroll.scrollTop = Math.max(y - scroll.clientHeight / 2, 0);
    choose(i);
  }
  function step(by_) {
    for (let row = (rowOf.get(chosen) ?? (by_ > 0 ? -1 : rows.length)) + by_; rows[row]; row += by_)
      if (rows[row].event >= 0) return show(rows[row].event);
    return undefined;
  }
  function match(by_) {
    if (!order.length) return;
    let at = by_ > 0 ? order.findIndex((i) => i > chosen) : order.findLastIndex((i) => i < chosen);
    if (at < 0) at = by_ > 0 ? 0 : order.length - 1;
    by("found").textContent = `${at + 1} of ${order.length} matches`;
    show(order[at]);
  }
  function zoom(factor) {
    const scroll = by("scroll"), top = scroll.scrollTop / height();
    scale = Math.min(Math.max(scale * factor, 0.3), 4);
    drawHead();
    by("room").style.height = `${rows.length * height() + 20}px`;
    scroll.scrollTop = top * height();
    draw(true);
  }
  function between(from, to) {
    [start, end] = [from, to];
    by("from").value = from === -Infinity ? "" : from / 1e9;
    by("to").value = to === Infinity ? "" : to / 1e9;
    by("scroll").scrollTop = 0;
    rebuild();
  }

  function listen() {
    let timer, pressed;
    by("scroll").addEventListener("scroll", () => draw(false));
    window.addEventListener("resize", () => draw(true));
    by("search").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(rebuild, 150); });
    by("search").addEventListener("keydown", (key) => {
      if (key.key === "Enter") { clearTimeout(timer); rebuild(); match(key.shiftKey ? -1 : 1); }
    });
    by("next").addEventListener("click", () => match(1));
    by("prev").addEventListener("click", () => match(-1));
    by("only").addEventListener("change", rebuild);
    by("bad").addEventListener("change", rebuild);
    by("in").addEventListener("click", () => zoom(1.25));
    by("out").addEventListener("click", () => zoom(0.8));
    by("all").addEventListener("click", () => between(-Infinity, Infinity));
    const typed = (id, none) => (by(id).value === "" ? none : Number(by(id).value) * 1e9);
    for (const id of ["from", "to"])
      by(id).addEventListener("change", () => between(typed("from", -Infinity), typed("to", Infinity)));
    by("unfold").addEventListener("click", () => {
      if (opened.size) opened.clear(); else page.folds.forEach((_, number) => opened.add(number));
      by("unfold").textContent = opened.size ? "Fold repeats" : "Unfold repeats";
      rebuild();
    });
    by("scroll").addEventListener("wheel", (wheel) => {
      if (wheel.ctrlKey) { wheel.preventDefault(); zoom(wheel.deltaY < 0 ? 1.1 : 0.9); }
    }, { passive: false });
    by("scroll").addEventListener("keydown", (key) => {
      const moves = { ArrowDown: () => step(1), ArrowUp: () => step(-1), "+": () => zoom(1.25), "-": () => zoom(0.8) };
      if (moves[key.key] && !key.ctrlKey) { key.preventDefault(); moves[key.key](); }
    });
    document.addEventListener("keydown", (key) => {
      if (key.key === "/" && document.activeElement.tagName !== "INPUT") { key.preventDefault(); by("search").focus(); }
    });
    const strip = by("strip");
    const at = (mouse) => {
      const box = strip.getBoundingClientRect();
      return Math.min(Math.max((mouse.clientX - box.left) / (box.width || 1), 0), 1) * page.density[1].length * page.density[0];
    };
    strip.addEventListener("pointerdown", (mouse) => { pressed = at(mouse); });
    window.addEventListener("pointerup", (mouse) => {
      if (pressed === undefined) return;
      const now = at(mouse), [from, to] = [Math.min(pressed, now), Math.max(pressed, now)];
      pressed = undefined;
      if (to - from >= page.density[0] / 2) return between(from, to);
      const i = events.findIndex((event) => event[TIME] >= from && isShown(event));
      return i < 0 ? undefined : show(i);
    });
  }

  async function begin() {
    page = await unpack(blocks[0]);
    ({ events, texts } = page);
    haystack = new Array(events.length);
    by("title").textContent = page.title;
    by("notes").replaceChildren(...page.notes.map((text) => element("p", text)));
    const used = new Set(events.map((event) => event[CHANNEL]));
    page.channels.forEach(([name, colour], number) => {
      if (!used.has(number)) return;
      const label = element("label"), box = element("input"), swatch = element("span", "", "swatch");
      box.type = "checkbox";
      box.checked = true;
      box.addEventListener("change", () => {
        if (box.checked) hiddenChannels.delete(number); else hiddenChannels.add(number);
        rebuild();
      });
      swatch.style.background = colour;
      label.append(box, swatch, name);
      by("channels").append(label);
    });
    listen();
    rebuild();
  }
  begin().catch((error) => {
    by("side").replaceChildren(element("p", `This browser cannot show the capture: ${error}`, "wrong"));
  });
})();
