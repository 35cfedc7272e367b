// Keeps open pages up to date. Pages work without it: every action is a form of its own.
"use strict";

(() => {
  const seconds = Number(document.body.dataset.refresh);
  const live = document.getElementById("live");
  const stale = document.getElementById("stale");
  const pick = document.getElementById("pick");
  const all = document.getElementById("pick-all");
  const picked = new Set();
  let running = true;
  let failures = 0;
  let asking = false;

  // What somebody has typed, ticked or opened stays as it is.
  const callbacks = {
    beforeNodeMorphed: (node) =>
      !(node instanceof HTMLInputElement && node.type !== "hidden") &&
      !(node instanceof HTMLTextAreaElement) &&
      !(node instanceof HTMLSelectElement),
    beforeAttributeUpdated: (name, node) =>
      !(name === "open" && node instanceof HTMLDetailsElement),
    beforeNodeRemoved: (node) =>
      !(node instanceof Element && node.contains(document.activeElement) && node.matches("details.menu")),
  };

  const say = (text) => {
    stale.textContent = text;
    stale.hidden = !text;
  };

  const refresh = async () => {
    if (!running || asking || document.hidden) return;
    asking = true;
    try {
      const answer = await fetch(location.href, {
        headers: { "X-Refresh": "1" },
        redirect: "manual",
        signal: AbortSignal.timeout(10000),
      });
      if (answer.status === 401) {
        location.reload();
        return;
      }
      if (!answer.ok) throw new Error(String(answer.status));
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!running) return;
      for (const part of document.querySelectorAll("[data-live]")) {
        const next = fresh.getElementById(part.id);
        if (next) Idiomorph.morph(part, next, { callbacks });
      }
      failures = 0;
      say("");
      count();
    } catch {
      failures += 1;
      const at = new Date().toISOString().slice(11, 19);
      if (failures === 1) stale.dataset.since = at;
      // One missed look is no news.
      if (failures > 1) say(`Not up to date since ${stale.dataset.since} UTC: the server does not answer as it should.`);
    } finally {
      asking = false;
    }
  };

  const boxes = () => [...document.querySelectorAll("input[name=id][form=pick]")];

  const count = () => {
    if (!pick) return;
    const shown = boxes();
    for (const box of shown) box.checked = picked.has(box.value);
    const here = shown.filter((box) => box.checked).length;
    const gone = picked.size - here;
    const words = picked.size ? `${picked.size} selected` + (gone ? `, ${gone} of them not on this page` : "") : "None selected";
    const told = document.getElementById("pick-count");
    if (told.textContent !== words) told.textContent = words;
    all.checked = shown.length > 0 && here === shown.length;
    all.indeterminate = here > 0 && here < shown.length;
  };

  if (pick) {
    // A browser that comes back to the page has the boxes ticked already.
    for (const box of boxes()) if (box.checked) picked.add(box.value);
    document.addEventListener("change", (event) => {
      const box = event.target;
      if (box === all) for (const one of boxes()) picked[all.checked ? "add" : "delete"](one.value);
      else if (box.form === pick && box.name === "id") picked[box.checked ? "add" : "delete"](box.value);
      else return;
      count();
    });
    pick.addEventListener("submit", (event) => {
      if (!picked.size) {
        event.preventDefault();
        document.getElementById("pick-count").textContent = "Select jobs first";
        return;
      }
      // Jobs that newer ones have moved off this page since they were ticked.
      for (const old of pick.querySelectorAll("input[data-moved]")) old.remove();
      const shown = new Set(boxes().map((box) => box.value));
      for (const id of picked) {
        if (shown.has(id)) continue;
        const field = document.createElement("input");
        Object.assign(field, { type: "hidden", name: "id", value: id });
        field.dataset.moved = "";
        pick.append(field);
      }
    });
    count();
  }

  // One menu at a time; Escape and a click elsewhere close it.
  const close = (but) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (menu !== but) menu.open = false;
    }
  };
  document.addEventListener("click", (event) => close(event.target.closest("details.menu")));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    const menu = document.activeElement?.closest("details.menu[open]");
    close();
    menu?.querySelector("summary").focus();
  });
  document.addEventListener(
    "toggle",
    (event) => {
      if (event.target.matches?.("details.menu[open]")) event.target.querySelector("input:not([type=hidden])")?.focus();
    },
    true,
  );

  if (live) {
    live.hidden = false;
    live.addEventListener("click", () => {
      running = !running;
      live.setAttribute("aria-pressed", String(running));
      live.querySelector(".live-text").textContent = running ? "Live" : "Held";
      refresh();
    });
    setInterval(refresh, seconds * 1000);
    document.addEventListener("visibilitychange", refresh);
  }
})();
