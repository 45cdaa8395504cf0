// The live tail. Pausing keeps the rows and counts what comes; resuming puts it on top.

const most = 500; // rows kept

/** @typedef {{id: string, type: string, source: string, key: string, correlation: string, at: string}} Row */

/** @returns {{pause: () => void} | null} */
export function tail() {
  const table = document.getElementById("tail");
  const body = table?.querySelector("tbody");
  const bar = document.getElementById("tail-bar");
  const state = document.getElementById("tail-state");
  const pauseButton = document.getElementById("tail-pause");
  const newButton = document.getElementById("tail-new");
  if (!table || !body || !bar || !state || !pauseButton || !newButton) return null;

  /** @type {Row[]} */
  let held = [];
  let heldCount = 0;
  let paused = false;
  let skipped = 0;
  let connected = false;
  let once = false; // has been connected

  function cell(className, ...children) {
    const td = document.createElement("td");
    if (className) td.className = className;
    td.append(...children);
    return td;
  }

  function link(className, href, text) {
    const a = document.createElement("a");
    a.className = className;
    a.href = href;
    a.textContent = text;
    return a;
  }

  /** @param {Row} r */
  function line(r) {
    const tr = document.createElement("tr");
    tr.className = "arrived";
    const type = link("type", "/console/events/" + encodeURIComponent(r.id), "");
    r.type.split(/(?<=[.-])/).forEach((part, i) => type.append(...(i ? [document.createElement("wbr")] : []), part));
    type.dataset.domain = r.type.split(".")[0];
    const key = document.createElement("bdi");
    key.textContent = r.key;
    const short = r.correlation.length > 12 ? "…" + r.correlation.slice(-8) : r.correlation;
    tr.append(cell("mono nowrap", r.at), cell("", type), cell("wide-only", r.source), cell("mono break", key),
      cell("wide-only", link("id", "/console/flows/" + encodeURIComponent(r.correlation), short)));
    return tr;
  }

  /** @param {Row[]} rows newest first */
  function put(rows) {
    document.getElementById("tail-empty")?.remove();
    body.prepend(...rows.map(line));
    while (body.rows.length > most) body.deleteRow(-1);
  }

  function tell() {
    bar.classList.toggle("live-on", connected && !paused);
    pauseButton.textContent = paused ? "Resume" : "Pause";
    newButton.hidden = !paused || heldCount === 0;
    newButton.textContent = heldCount + " new";
    let text = !connected ? (once ? "reconnecting" : "connecting") : paused ? "paused; the rows stay" : "live";
    if (skipped) text += ", " + "more came than is shown: narrow the filter";
    state.textContent = text;
  }

  function pause() {
    paused = !paused;
    if (!paused) {
      put(held);
      held = [];
      heldCount = 0;
    }
    tell();
  }

  let source = null;
  let last = "";

  function open() {
    if (source) return;
    const url = new URL(table.dataset.stream ?? "", location.href);
    if (last) url.searchParams.set("from", last);
    source = new EventSource(url);
    source.addEventListener("open", () => { connected = once = true; tell(); });
    source.addEventListener("error", () => { connected = false; tell(); });
    source.addEventListener("news", (e) => {
      last = e.lastEventId || last;
      const { rows, more } = JSON.parse(e.data);
      if (more) skipped++;
      if (paused) {
        heldCount += rows.length;
        held = [...rows, ...held].slice(0, most);
      } else {
        put(rows);
      }
      tell();
    });
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden && !paused) { source?.close(); source = null; connected = false; }
    if (!document.hidden) open();
  });
  window.addEventListener("pagehide", () => source?.close());
  pauseButton.hidden = false;
  pauseButton.addEventListener("click", pause);
  newButton.addEventListener("click", pause);
  document.getElementById("tail-clear")?.addEventListener("click", () => { body.replaceChildren(); });
  open();
  tell();
  return { pause };
}
