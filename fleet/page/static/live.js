// Keeps the page as the ledger is: waits for news, asks for the page again, and swaps the parts
// that changed. Text is never made into markup here: the parts come from the server's templates,
// parsed as a document that runs nothing. Open details, focus and scroll positions stay.
"use strict";

(() => {
  const main = document.querySelector("main[data-events]");
  if (!main || !window.EventSource) return;
  const pulse = document.getElementById("pulse");
  const announce = document.getElementById("announce");
  const LEAST_MS = 1000;
  let last = null;
  let asked = 0;
  let timer = 0;

  const say = (text, state) => {
    pulse.hidden = false;
    pulse.textContent = text;
    pulse.className = `pulse ${state}`;
  };

  const swap = (fresh) => {
    for (const part of fresh.querySelectorAll("[data-part]")) {
      const here = document.getElementById(part.id);
      if (!here || here.outerHTML === part.outerHTML) continue;
      const open = [...here.querySelectorAll("details[id]")].map((d) => [d.id, d.open]);
      const places = [...here.querySelectorAll(".scroll, .log")].map((s) => [s.scrollLeft, s.scrollTop]);
      const focus = here.contains(document.activeElement) ? path(here, document.activeElement) : null;
      if (part.dataset.announce !== here.dataset.announce) announce.textContent = part.dataset.announce;
      const made = document.importNode(part, true);
      for (const [id, state] of open) {
        const found = made.querySelector(`#${CSS.escape(id)}`);
        if (found) found.open = state;
      }
      here.replaceWith(made);
      [...made.querySelectorAll(".scroll, .log")].forEach((s, at) => {
        if (places[at]) [s.scrollLeft, s.scrollTop] = places[at];
      });
      if (focus) step(made, focus)?.focus({ preventScroll: true });
    }
  };

  const path = (root, node) => {
    const steps = [];
    for (let at = node; at !== root; at = at.parentElement) {
      steps.unshift([...at.parentElement.children].indexOf(at));
    }
    return steps;
  };

  const step = (root, steps) => steps.reduce((at, number) => at?.children[number], root);

  const refresh = async () => {
    timer = 0;
    asked = Date.now();
    try {
      const answer = await fetch(location.href, { cache: "no-cache", credentials: "same-origin" });
      if (!answer.ok) throw new Error(String(answer.status));
      const text = await answer.text();
      swap(new DOMParser().parseFromString(text, "text/html"));
      say("live", "on");
    } catch {
      say("no answer", "off");
    }
  };

  const source = new EventSource(main.dataset.events);
  source.onmessage = (event) => {
    if (event.data === last) return;
    last = event.data;
    if (!timer) timer = setTimeout(refresh, Math.max(0, asked + LEAST_MS - Date.now()));
  };
  source.onopen = () => say("live", "on");
  source.onerror = () => say("reconnecting", "off");
  addEventListener("pagehide", () => source.close());
})();
