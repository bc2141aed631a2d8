// Tabs, the threshold and the theme. Scripts are not modules, so that pages of a static site also work from a folder.
{
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  const theme = one("#theme");
  theme?.addEventListener("click", () => {
    const root = document.documentElement;
    const dark = (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* then only this page */ }
    document.dispatchEvent(new Event("theme"));
  });

  // The tab is part of the address, so that it can be sent to others and is there after a reload; the features beside this one
  // are opened at the same tab, with as many tokens around.
  const tabs = all("input[name=kind]");
  const pass = () => all(".steps a[rel], .tools a").forEach((to) => {
    to.hash = location.hash;
    if (to.rel) to.search = location.search;
  });
  const turn = () => {
    const shown = tabs.find((tab) => `#${tab.value}` === location.hash);
    if (shown) shown.checked = true;
    if (tabs.length) pass();
  };
  turn();
  addEventListener("hashchange", turn);
  tabs.forEach((tab) => tab.addEventListener("change", () => {
    history.replaceState(null, "", `#${tab.value}`);
    one("#interval")?.replaceChildren();
    pass();
  }));
  document.addEventListener("click", (event) => {
    const close = event.target.closest("[data-close]");
    if (close) one(close.dataset.close).replaceChildren();
  });

  // Activations below the threshold lose their shade; what is loaded later follows.
  const least = one("#least");
  const sift = () => {
    const from = Number(least.value);
    one("#least-said").textContent = from ? `${from * 5}% of the largest` : "all";
    all("#contexts mark").forEach((mark) => mark.classList.toggle("low", Number(mark.className.match(/a(\d+)/)?.[1] ?? 0) < from));
  };
  least?.addEventListener("input", sift);
  document.addEventListener("htmx:afterSettle", (event) => {
    if (least && Number(least.value)) sift();
    if (event.target.id === "interval") event.target.scrollIntoView({ block: "nearest" });
  });

  // A server that is gone says nothing by itself.
  document.addEventListener("htmx:sendError", (event) => {
    const said = Object.assign(document.createElement("p"), { className: "message", role: "alert",
      textContent: "The server does not answer. Is it still running where cutaway serve was started?" });
    const target = event.detail.target;
    one(".message", target.parentElement)?.remove();
    target.prepend(said);
  });

  // A table that the browser kept whole for the way back does not know the labels that were given since.
  addEventListener("pageshow", (event) => { if (event.persisted && one("[data-list]")) location.reload(); });

  // What was not chosen is no part of the address.
  document.addEventListener("htmx:configRequest", (event) => {
    const { verb, parameters } = event.detail;
    if (verb === "get") Object.keys(parameters).forEach((name) => parameters[name] === "" && delete parameters[name]);
  });

  // The field of the table that is searched keeps what was typed when the table is sorted.
  document.addEventListener("htmx:beforeRequest", (event) => {
    const form = one("#filters");
    if (!form || event.detail.elt.tagName !== "A") return;
    const query = new URL(event.detail.pathInfo.requestPath, location.href).searchParams;
    for (const name of ["sort", "down"]) if (query.has(name)) form.elements[name].value = query.get(name);
  });
}
