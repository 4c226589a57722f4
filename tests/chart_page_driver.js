"use strict";
// Runs the script of a chart's page in as little of a document as it needs, and prints what it shows.
const fs = require("fs");
const page = fs.readFileSync(process.argv[2], "utf8");

class Element {
  constructor(name) {
    this.tagName = name.toUpperCase();
    Object.assign(this, { attributes: {}, children: [], listeners: {}, style: {}, value: "", checked: false });
    Object.assign(this, { scrollTop: 0, clientHeight: 600, className: "", own: "" });
  }
  get textContent() {
    return this.own + this.children.map((child) => (typeof child === "string" ? child : child.textContent)).join("\n");
  }
  set textContent(text) { this.own = String(text); this.children = []; }
  setAttribute(name, value) { this.attributes[name] = String(value); }
  append(...parts) { this.children.push(...parts); }
  replaceChildren(...parts) { this.own = ""; this.children = parts; }
  addEventListener(name, listener) { (this.listeners[name] ??= []).push(listener); }
  fire(name, event = {}) { for (const each of this.listeners[name] ?? []) each({ preventDefault() {}, ...event }); }
  getBoundingClientRect() { return { left: 0, width: 1000 }; }
  focus() {}
}
const ids = {};
for (const [, tag, id] of page.matchAll(/<(\w+)\b[^>]*?\bid="(\w+)"/g)) ids[id] = new Element(tag);
ids.data.textContent = page.match(/id="data">(.*?)<\/script>/s)[1];
globalThis.document = Object.assign(new Element("document"), {
  getElementById: (id) => ids[id],
  createElement: (name) => new Element(name),
  createElementNS: (_space, name) => new Element(name),
  activeElement: ids.scroll,
});
globalThis.window = new Element("window");
const errors = [];
process.on("unhandledRejection", (error) => errors.push(error));
const wait = () => new Promise((done) => setTimeout(done, 50));
const rows = () => ids.view.children.filter((child) => /^row/.test(child.attributes.class ?? ""));
const height = () => parseFloat(ids.room.style.height);
const count = () => Math.round((height() - 20) / 24);

(async () => {
  new Function(page.match(/<script>(.*?)<\/script>/s)[1])();
  for (let i = 0; i < 100 && !ids.found.textContent; i++) await wait();
  const seen = { title: ids.title.textContent, drawn: rows().length, folded: count() };
  rows()[0].fire("click");
  for (let i = 0; i < 100 && !ids.side.textContent.includes("000000  "); i++) await wait();
  seen.chosen = ids.side.textContent;
  ids.search.value = "put_term";
  ids.search.fire("keydown", { key: "Enter" });
  seen.match = ids.found.textContent;
  ids.prev.fire("click");
  ids.only.checked = true;
  ids.only.fire("change");
  seen.only = count();
  ids.only.checked = false;
  ids.search.value = "";
  ids.unfold.fire("click");
  seen.unfolded = count();
  ids.unfold.fire("click");
  ids.scroll.scrollTop = 0;
  ids.scroll.fire("scroll");
  ids.view.children.find((child) => child.attributes.class === "fold").fire("click");
  ids.view.children.find((child) => child.attributes.class === "fold").fire("click");
  ids.to.value = "0.01";
  ids.to.fire("change");
  seen.window = count();
  ids.all.fire("click");
  ids.strip.fire("pointerdown", { clientX: 100 });
  window.fire("pointerup", { clientX: 300 });
  ids.strip.fire("pointerdown", { clientX: 200 });
  window.fire("pointerup", { clientX: 200 });
  ids.all.fire("click");
  ids.bad.checked = true;
  ids.bad.fire("change");
  seen.wrong = count();
  ids.bad.checked = false;
  const box = ids.channels.children[0].children[0];
  box.checked = false;
  box.fire("change");
  seen.hidden = count();
  box.checked = true;
  box.fire("change");
  ids.head.children[1].fire("click");
  ids.head.children[1].fire("keydown", { key: "Enter" });
  seen.height = height();
  ids.in.fire("click");
  seen.zoomed = height();
  ids.out.fire("click");
  ids.scroll.scrollTop = height() - 600;
  ids.scroll.fire("scroll");
  for (const key of ["ArrowUp", "ArrowDown", "+", "-"]) ids.scroll.fire("keydown", { key });
  ids.scroll.fire("wheel", { ctrlKey: true, deltaY: 1 });
  document.fire("keydown", { key: "/" });
  window.fire("resize");
  await wait();
  seen.last = rows().length;
  if (errors.length || /cannot show/.test(ids.side.textContent)) throw errors[0] ?? new Error(ids.side.textContent);
  console.log(JSON.stringify(seen));
})().catch((error) => { console.error(error); process.exit(1); });
