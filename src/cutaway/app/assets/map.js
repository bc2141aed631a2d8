// The map of features, on a canvas: zoom, move, find, choose, open.
{
  const canvas = document.getElementById("map");
  const data = JSON.parse(document.getElementById("points").textContent);
  const tip = document.getElementById("tip"), chosen = document.getElementById("chosen"), find = document.getElementById("map-find");
  const n = data.latents.length, opens = new Set(data.open ?? data.latents);
  const link = (i) => canvas.dataset.base.replace(/\/0(\.html)?$/, `/${data.latents[i]}$1`).replace(/^f\/0/, `f/${data.latents[i]}`);
  const view = { x: 0, y: 0, scale: 1 };
  const pen = canvas.getContext("2d");
  let hits = null, box = null, grid = new Map();
  const hint = document.getElementById("map-said").textContent;      // how the map is used, until something is found on it

  const edge = 24;
  const size = () => ({ width: canvas.clientWidth, height: canvas.clientHeight });
  const place = (i) => {
    const { width, height } = size();
    return [(edge + (data.x[i] / 4095) * (width - 2 * edge)) * view.scale + view.x,
            (height - edge - (data.y[i] / 4095) * (height - 2 * edge)) * view.scale + view.y];
  };
  const lightest = Math.min(...data.f.slice(0, 100000)), darkest = data.f.reduce((a, b) => Math.max(a, b), -9999);
  const shade = (i) => 0.18 + 0.62 * ((data.f[i] - lightest) / Math.max(darkest - lightest, 1));

  const draw = () => {
    const { width, height } = size(), ratio = window.devicePixelRatio || 1, style = getComputedStyle(canvas);
    if (canvas.width !== Math.round(width * ratio)) { canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio); }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const blue = style.color, glow = style.caretColor;   // colours that the theme has settled
    const radius = Math.min(5, (n > 20000 ? 1.2 : 2.2) * Math.sqrt(view.scale));
    grid = new Map();
    for (let pass = 0; pass < 2; pass++) {
      for (let i = 0; i < n; i++) {
        const found = hits && hits.has(i);
        if (found !== (pass === 1) && !(pass === 0 && !found)) continue;
        const [x, y] = place(i);
        if (x < -5 || y < -5 || x > width + 5 || y > height + 5) continue;
        const cell = `${x >> 4},${y >> 4}`;
        if (!grid.has(cell)) grid.set(cell, []);
        grid.get(cell).push(i);
        pen.globalAlpha = found ? 1 : hits ? 0.12 : shade(i);
        pen.fillStyle = found ? glow : blue;
        pen.beginPath(); pen.arc(x, y, found ? radius + 1.5 : radius, 0, 7); pen.fill();
      }
    }
    pen.globalAlpha = 1;
    if (box) { pen.strokeStyle = glow; pen.strokeRect(box.x, box.y, box.w, box.h); }
  };
  let waiting = false;
  const soon = () => { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; draw(); }); } };

  const nearest = (x, y) => {
    let best = null, least = 100;
    for (let a = -1; a <= 1; a++) for (let b = -1; b <= 1; b++) {
      for (const i of grid.get(`${(x >> 4) + a},${(y >> 4) + b}`) ?? []) {
        const [px, py] = place(i), far = (px - x) ** 2 + (py - y) ** 2;
        if (far < least) { least = far; best = i; }
      }
    }
    return best;
  };
  // What a feature is called: a label alone, a name that was found with its score, or else the token at which it fires most.
  const made = (tag, kind, text) => Object.assign(document.createElement(tag), { className: kind, textContent: text });
  const called = (i) => {
    const [name, score] = data.called[data.latents[i]] ?? ["", ""];
    if (!name) return [made("code", "", data.t[i])];
    return score ? [made("span", "found", name), " ", made("span", score.endsWith("doubtful") ? "scored doubtful" : "scored", score)]
      : [made("span", "label", name)];
  };
  const list = (found) => {
    const most = 60;
    chosen.replaceChildren(...found.slice(0, most).map((i) => {
      const item = document.createElement("li"), to = made(opens.has(data.latents[i]) ? "a" : "span", "f", data.latents[i]);
      if (to.tagName === "A") to.href = link(i);
      item.append(to, " ", ...called(i));
      return item;
    }));
    const said = `${found.length.toLocaleString("en")} feature${found.length === 1 ? "" : "s"}`;
    document.getElementById("map-said").textContent = !found.length ? "none" : found.length > most ? `${said}, ${most} of them below` : said;
  };

  let from = null, moved = false;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    from = { x: event.offsetX, y: event.offsetY, vx: view.x, vy: view.y, choosing: event.shiftKey }; moved = false;
  });
  canvas.addEventListener("pointermove", (event) => {
    const x = event.offsetX, y = event.offsetY;
    if (from) {
      moved ||= Math.hypot(x - from.x, y - from.y) > 3;
      if (from.choosing) box = { x: Math.min(x, from.x), y: Math.min(y, from.y), w: Math.abs(x - from.x), h: Math.abs(y - from.y) };
      else { view.x = from.vx + x - from.x; view.y = from.vy + y - from.y; }
      soon();
      return;
    }
    const i = nearest(x, y);
    tip.hidden = i === null;
    canvas.style.cursor = i === null ? "grab" : "pointer";
    if (i !== null) {
      const share = made("span", "", `fires at ${Number((100 * 10 ** (data.f[i] / 1000)).toPrecision(2))}%`);
      tip.replaceChildren(made("b", "", data.latents[i]), " ", ...called(i), made("br", "", ""), share);
      tip.style.left = `${Math.max(4, Math.min(x + 14, size().width - tip.offsetWidth - 8))}px`;
      tip.style.top = `${Math.min(y + 14, size().height - tip.offsetHeight - 8)}px`;
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    const started = from, area = box;
    from = null; box = null;
    if (started?.choosing && area) {
      const found = [...Array(n).keys()].filter((i) => { const [x, y] = place(i); return x >= area.x && x <= area.x + area.w && y >= area.y && y <= area.y + area.h; });
      hits = new Set(found); list(found); soon();
    } else if (!moved) {
      const i = nearest(event.offsetX, event.offsetY);
      if (i !== null && opens.has(data.latents[i])) location.href = link(i);
    }
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const by = Math.exp(-event.deltaY / 400), scale = Math.min(Math.max(view.scale * by, 0.5), 60), true_by = scale / view.scale;
    view.x = event.offsetX - (event.offsetX - view.x) * true_by; view.y = event.offsetY - (event.offsetY - view.y) * true_by;
    view.scale = scale; soon();
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const by = { "+": 1.3, "-": 1 / 1.3 }[event.key], go = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
    if (by) view.scale *= by;
    if (go) { view.x += go[0]; view.y += go[1]; event.preventDefault(); }
    if (by || go) soon();
  });
  find.addEventListener("input", () => {
    const word = find.value.toLowerCase();
    const says = (i) => `${data.t[i]}\n${data.called[data.latents[i]]?.[0] ?? ""}`.toLowerCase();
    const found = word ? [...Array(n).keys()].filter((i) => String(data.latents[i]) === word || says(i).includes(word)) : [];
    hits = word ? new Set(found) : null;
    if (word) list(found); else { chosen.replaceChildren(); document.getElementById("map-said").textContent = hint; }
    soon();
  });
  addEventListener("resize", soon);
  document.addEventListener("theme", soon);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", soon);
  draw();
}
