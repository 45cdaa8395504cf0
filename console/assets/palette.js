// The palette: pages by name, and whatever the server finds for a text.

/** @returns {{open: () => void}} */
export function palette() {
  const box = document.getElementById("palette");
  const input = box?.querySelector("input");
  const list = box?.querySelector(".hits");
  if (!(box instanceof HTMLDialogElement) || !input || !list) return { open() {} };

  const pages = [...document.querySelectorAll("nav a[data-key]")].map((a) => ({ kind: "page", text: a.textContent ?? "", url: a.getAttribute("href") ?? "" }));
  pages.push({ kind: "page", text: "Compare two flows", url: "/console/compare" }, { kind: "page", text: "HTTP API", url: "/docs" });
  let hits = pages;
  let at = 0;
  let asked = 0;

  function show() {
    list.replaceChildren(...hits.map((h, i) => {
      const a = document.createElement("a");
      a.href = h.url;
      if (i === at) a.className = "at";
      const kind = document.createElement("span");
      kind.className = "kind";
      kind.textContent = h.kind;
      const text = document.createElement("span");
      text.textContent = h.text;
      a.append(kind, text);
      const li = document.createElement("li");
      li.append(a);
      return li;
    }));
    list.querySelector(".at")?.scrollIntoView({ block: "nearest" });
  }

  async function ask() {
    const text = input.value.trim();
    const mine = ++asked;
    const near = pages.filter((p) => p.text.toLowerCase().includes(text.toLowerCase()));
    hits = near;
    at = 0;
    show();
    if (text.length < 2) return;
    await new Promise((done) => setTimeout(done, 120));
    if (mine !== asked) return;
    const r = await fetch("/console/find.json?q=" + encodeURIComponent(text), { credentials: "same-origin" });
    if (!r.ok || r.redirected || mine !== asked) return;
    hits = [...near, ...await r.json()];
    show();
  }

  input.addEventListener("input", ask);
  box.addEventListener("keydown", (e) => {
    if (e.key === "ArrowDown" || e.key === "ArrowUp") {
      e.preventDefault();
      at = (at + (e.key === "ArrowDown" ? 1 : hits.length - 1)) % Math.max(hits.length, 1);
      show();
    } else if (e.key === "Enter" && hits[at]) {
      e.preventDefault();
      location.assign(hits[at].url);
    }
  });

  return {
    open() {
      if (box.open) return;
      input.value = "";
      hits = pages;
      at = 0;
      show();
      box.showModal();
      input.focus();
    },
  };
}
