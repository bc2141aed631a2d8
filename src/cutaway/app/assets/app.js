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

  // The tab is part of the address, so that it can be sent to others and is there after a reload.
  const tabs = all("input[name=kind]");
  const shown = tabs.find((tab) => `#${tab.value}` === location.hash);
  if (shown) shown.checked = true;
  tabs.forEach((tab) => tab.addEventListener("change", () => {
    history.replaceState(null, "", `#${tab.value}`);
    one("#interval")?.replaceChildren();
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

  // The field of the table that is searched keeps what was typed when the table is sorted.
  document.addEventListener("htmx:beforeRequest", (event) => {
    const form = one("#filters");
    if (!form || event.detail.elt.tagName !== "A") return;
    const query = new URL(event.detail.pathInfo.requestPath, location.href).searchParams;
    for (const name of ["sort", "down"]) if (query.has(name)) form.elements[name].value = query.get(name);
  });
}
