// The console's behaviour. Every page is whole without it: this adds keys, the palette, what is live, and copying.
import { palette } from "./palette.js";
import { tail } from "./tail.js";

/** @param {string} sel @param {ParentNode} [root] @returns {HTMLElement[]} */
const all = (sel, root = document) => [...root.querySelectorAll(sel)];

// ---- theme: light, dark, or as the system is set

const themes = ["", "light", "dark"];
const themeNames = { "": "◐ System", light: "○ Light", dark: "● Dark" };
const themeButton = document.getElementById("theme");

function showTheme() {
  const now = document.documentElement.dataset.theme ?? "";
  if (themeButton) themeButton.textContent = themeNames[now];
}

themeButton?.addEventListener("click", () => {
  const root = document.documentElement;
  const next = themes[(themes.indexOf(root.dataset.theme ?? "") + 1) % themes.length];
  if (next) root.dataset.theme = next;
  else delete root.dataset.theme;
  document.cookie = `carebus-theme=${next}; path=/console/; samesite=strict; max-age=${next ? 31536000 : 0}`;
  showTheme();
});
showTheme();

// ---- times: "3m ago" goes on

const units = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];

function tellTimes() {
  for (const t of all("time[data-ago]")) {
    let s = (Date.now() - Date.parse(t.getAttribute("datetime") ?? "")) / 1000;
    if (!Number.isFinite(s)) continue;
    const future = s < 0;
    s = Math.abs(s);
    if (s < 1) { t.textContent = "now"; continue; }
    let [name, size] = units.find(([, n]) => s >= n) ?? units[3];
    if (name === "d" && s < 2 * 86400) [name, size] = units[1];
    if (name === "d" && s >= 730 * 86400) [name, size] = ["y", 365 * 86400];
    const text = Math.floor(s / size) + name;
    t.textContent = future ? "in " + text : text + " ago";
  }
}
setInterval(tellTimes, 5000);

// ---- copying

document.addEventListener("click", async (e) => {
  const b = e.target instanceof Element ? e.target.closest("[data-copy]") : null;
  if (!(b instanceof HTMLElement)) return;
  const before = b.textContent;
  try {
    await navigator.clipboard.writeText(b.dataset.copy ?? "");
    b.textContent = "Copied";
  } catch {
    b.textContent = "Not allowed";
  }
  setTimeout(() => { b.textContent = before; }, 1200);
});

// ---- what is live: a region of the page is looked at again when the stream says that there is news

const live = document.body.dataset.live;
let source = null;
let waiting = false;
let again = false;
let paused = false;

/** A region is left alone while somebody types, selects or has opened something in it. */
function busy(region) {
  const s = document.getSelection();
  return region.contains(document.activeElement) && document.activeElement?.matches("input, select, textarea")
    || (s && !s.isCollapsed && region.contains(s.anchorNode))
    || region.querySelector("details[open] form") !== null;
}

/** A region that was not there before is put where its page has it: behind the nearest one before it that is here, or at the front. */
function place(came) {
  let before = came.previousElementSibling;
  while (before && !(before.id && document.getElementById(before.id))) before = before.previousElementSibling;
  const there = before ? document.getElementById(before.id) : null;
  if (there) { there.after(came); return; }
  let after = came.nextElementSibling;
  while (after && !(after.id && document.getElementById(after.id))) after = after.nextElementSibling;
  if (after) document.getElementById(after.id).before(came);
  else location.reload(); // it stands among nothing that is known here
}

async function look() {
  if (paused) return;
  if (waiting) { again = true; return; } // news while looking: look once more
  waiting = true;
  again = false;
  try {
    const r = await fetch(location.href, { headers: { "X-Console-Live": "1" }, credentials: "same-origin" });
    if (!r.ok || r.redirected) return;
    const page = new DOMParser().parseFromString(await r.text(), "text/html");
    for (const now of all("[data-region]")) {
      const next = page.getElementById(now.id);
      if (!next && !busy(now)) now.remove();
      if (!next || busy(now) || next.innerHTML === now.innerHTML) continue;
      const box = now.querySelector(".drawing");
      const at = box && { x: box.scrollLeft, y: box.scrollTop, end: box.scrollTop + box.clientHeight >= box.scrollHeight - 8 };
      const opened = all("details[open]", now).map((d) => all("details", now).indexOf(d));
      now.replaceChildren(...next.childNodes);
      opened.forEach((i) => { const d = all("details", now)[i]; if (d) d.setAttribute("open", ""); });
      const box2 = now.querySelector(".drawing");
      if (at && box2) box2.scrollTo(at.x, at.end ? box2.scrollHeight : at.y);
    }
    for (const came of all("[data-region]", page)) if (!document.getElementById(came.id)) place(came);
    tellTimes();
    pan();
    all("[data-end]").forEach((box) => { box.scrollLeft = box.scrollWidth; });
  } finally {
    waiting = false;
    if (again) look();
  }
}

function listen() {
  if (!live || source || document.hidden) return;
  source = new EventSource(live);
  source.addEventListener("news", look);
  source.addEventListener("open", () => document.body.classList.add("live-on"));
  source.addEventListener("error", () => document.body.classList.remove("live-on"));
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    source?.close();
    source = null;
    return;
  }
  if (live && !source) { listen(); look(); }
});
window.addEventListener("pagehide", () => source?.close());
listen();

// ---- drawings can be dragged

function pan() {
  for (const box of all("[data-pan]")) {
    if (box.dataset.panning) continue;
    box.dataset.panning = "1";
    let from = null;
    box.addEventListener("pointerdown", (e) => {
      if (e.button === 0 && e.pointerType === "mouse") from = { x: e.clientX, y: e.clientY, left: box.scrollLeft, top: box.scrollTop, moved: false };
    });
    box.addEventListener("pointermove", (e) => {
      if (!from) return;
      const dx = e.clientX - from.x, dy = e.clientY - from.y;
      from.moved ||= Math.abs(dx) + Math.abs(dy) > 6;
      if (from.moved) box.scrollTo(from.left - dx, from.top - dy);
    });
    box.addEventListener("click", (e) => { if (from?.moved) e.preventDefault(); from = null; }, true);
    box.addEventListener("pointerleave", () => { from = null; });
    box.addEventListener("dragstart", (e) => e.preventDefault());
  }
}
pan();
document.querySelector("nav a[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
all("[data-end]").forEach((box) => { box.scrollLeft = box.scrollWidth; });
all(".drawing .row.marked").forEach((r) => r.scrollIntoView({ block: "center", inline: "nearest" }));

// ---- the slider over versions

const slider = document.querySelector("#slider input[type=range]");
if (slider instanceof HTMLInputElement) {
  slider.addEventListener("change", () => { location.assign(slider.dataset.self + "?version=" + encodeURIComponent(slider.value)); });
}

function version(by) {
  if (!(slider instanceof HTMLInputElement)) return;
  const next = Math.min(Math.max(Number(slider.value) + by, Number(slider.min)), Number(slider.max));
  if (next !== Number(slider.value)) location.assign(slider.dataset.self + "?version=" + next);
}

// ---- keys

const go = palette();
const feed = tail();
let gPressed = 0;

function rows(by) {
  const links = all("[data-row]");
  if (!links.length) return;
  const at = links.indexOf(/** @type {HTMLElement} */ (document.activeElement));
  const next = links[at < 0 ? (by > 0 ? 0 : links.length - 1) : Math.min(Math.max(at + by, 0), links.length - 1)];
  next.focus();
  next.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (e) => {
  if ((e.ctrlKey || e.metaKey) && e.key.toLowerCase() === "k") {
    e.preventDefault();
    go.open();
    return;
  }
  const typing = e.target instanceof Element && e.target.matches("input, textarea, select");
  if (typing || e.ctrlKey || e.metaKey || e.altKey) return;
  if (Date.now() - gPressed < 1200) {
    gPressed = 0;
    const link = document.querySelector(`nav a[data-key="${CSS.escape(e.key)}"]`);
    if (link instanceof HTMLAnchorElement) { e.preventDefault(); location.assign(link.href); return; }
  }
  switch (e.key) {
    case "/": e.preventDefault(); document.getElementById("find")?.focus(); break;
    case "?": e.preventDefault(); dialog("keys"); break;
    case "g": gPressed = Date.now(); break;
    case "j": rows(1); break;
    case "k": rows(-1); break;
    case "[": version(-1); break;
    case "]": version(1); break;
    case "p": paused = !paused; feed?.pause(); break;
  }
});

function dialog(id) {
  const d = document.getElementById(id);
  if (d instanceof HTMLDialogElement && !d.open) d.showModal();
}

for (const b of all("[data-open]")) {
  b.addEventListener("click", () => (b.dataset.open === "palette" ? go.open() : dialog(b.dataset.open ?? "")));
}
for (const d of all("dialog")) {
  d.addEventListener("click", (e) => { if (e.target === d && d instanceof HTMLDialogElement) d.close(); });
}
