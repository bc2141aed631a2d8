// Keys. This runs before the page's body is read, so that a key that is pressed while a page is still coming is not lost:
// it acts on what is there, or as soon as the page is whole.
{
  const one = (selector, root = document) => root.querySelector(selector);
  const typing = (element) => element && element.matches("input:not([type=radio]):not([type=range]), textarea, select");
  const coming = () => document.readyState === "loading";

  // j and k go to the next and previous feature, or along the rows of a table; / goes to the search.
  const along = (list, by) => {
    const links = [...list.querySelectorAll("tr")].map((row) => one("a", row)).filter(Boolean);
    const now = links.indexOf(document.activeElement);
    const to = links[Math.min(Math.max(now + by, 0), links.length - 1)];
    to?.focus();
    return to;
  };
  const step = (by) => {
    const list = one("[data-list] tbody");
    const to = list ? along(list, by) : one(by > 0 ? "a[rel=next]" : "a[rel=prev]");
    if (!list) to?.click();
    return to;
  };
  const find = () => {
    const field = one("#find") ?? one("input[type=search]");
    field?.focus();
    field?.select();
    return field;
  };
  const acts = { j: () => step(1), k: () => step(-1), "/": find };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") {
      if (typing(document.activeElement)) document.activeElement.blur(); else one("[data-close]")?.click();
      return;
    }
    const act = acts[event.key];
    if (!act || typing(document.activeElement)) return;
    const acted = act();
    if (acted && event.key === "/") event.preventDefault();
    if (!acted && coming()) document.addEventListener("DOMContentLoaded", act, { once: true });
  });
}
