// The map of features, on a canvas: zoom, move, find, choose, open.
{
  const canvas = document.getElementById("map");
  const data = JSON.parse(document.getElementById("points").textContent);
  const tip = document.getElementById("tip"), chosen = document.getElementById("chosen"), find = document.getElementById("map-find");
  const n = data.latents.length, opens = new Set(data.open ?? data.latents);
  const link = (i) => canvas.dataset.base.replace(/\/0(\.html)?$/, `/${data.latents[i]}$1`).replace(/^f\/0/, `f/${data.latents[i]}`);
  const view = { x: 0, y: 0, scale: 1 }, most = 60;
  const pen = canvas.getContext("2d");
  let hits = null, box = null;
  const hint = document.getElementById("map-said").textContent;      // how the map is used, until something is found on it

  const edge = 24;
  const size = () => ({ width: canvas.clientWidth, height: canvas.clientHeight });
  const placed = ({ width, height }) => (i) => [(edge + (data.x[i] / 4095) * (width - 2 * edge)) * view.scale + view.x,
    (height - edge - (data.y[i] / 4095) * (height - 2 * edge)) * view.scale + view.y];
  const lightest = data.f.reduce((a, b) => Math.min(a, b), 0), darkest = data.f.reduce((a, b) => Math.max(a, b), -9999);
  const shade = (i) => 0.18 + 0.62 * ((data.f[i] - lightest) / Math.max(darkest - lightest, 1));

  const draw = () => {
    const { width, height } = size(), ratio = window.devicePixelRatio || 1, style = getComputedStyle(canvas);
    const wide = Math.round(width * ratio), high = Math.round(height * ratio), place = placed({ width, height });
    if (canvas.width !== wide || canvas.height !== high) { canvas.width = wide; canvas.height = high; }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const blue = style.color, glow = style.caretColor;   // colours that the theme has settled
    const radius = Math.min(5, (n > 20000 ? 1.2 : 2.2) * Math.sqrt(view.scale));
    const dot = (i, r) => {
      const [x, y] = place(i);
      if (x < -5 || y < -5 || x > width + 5 || y > height + 5) return;
      if (r < 2) { pen.fillRect(x - r, y - r, 2 * r, 2 * r); return; }      // too small to be seen as round, and fast
      pen.beginPath(); pen.arc(x, y, r, 0, 7); pen.fill();
    };
    pen.fillStyle = blue;
    for (let i = 0; i < n; i++) { pen.globalAlpha = hits ? 0.12 : shade(i); dot(i, radius); }
    pen.globalAlpha = 1;
    pen.fillStyle = glow;
    hits?.forEach((i) => dot(i, radius + 1.5));
    if (box) { pen.strokeStyle = glow; pen.strokeRect(box.x, box.y, box.w, box.h); }
    canvas.dataset.scale = view.scale.toFixed(2);
  };
  let waiting = false;
  const soon = () => { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; draw(); }); } };
  // Some of the map always stays in sight.
  const stay = () => {
    const { width, height } = size(), within = (at, long) => Math.min(Math.max(at, long * (0.5 - view.scale)), long / 2);
    view.x = within(view.x, width); view.y = within(view.y, height);
    soon();
  };
  const move = (x, y) => { view.x += x; view.y += y; stay(); };
  const zoom = (by, x = size().width / 2, y = size().height / 2) => {
    const scale = Math.min(Math.max(view.scale * by, 1), most), truly = scale / view.scale;
    view.x = x - (x - view.x) * truly; view.y = y - (y - view.y) * truly; view.scale = scale;
    stay();
  };
  const whole = () => { Object.assign(view, { x: 0, y: 0, scale: 1 }); soon(); };

  const nearest = (x, y) => {
    const place = placed(size());
    let best = null, least = 100;
    for (let i = 0; i < n; i++) {
      const [px, py] = place(i), far = (px - x) ** 2 + (py - y) ** 2;
      if (far < least) { least = far; best = i; }
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
    const shown = 60;
    chosen.replaceChildren(...found.slice(0, shown).map((i) => {
      const item = document.createElement("li"), to = made(opens.has(data.latents[i]) ? "a" : "span", "f", data.latents[i]);
      if (to.tagName === "A") to.href = link(i);
      item.append(to, " ", ...called(i));
      return item;
    }));
    const said = `${found.length.toLocaleString("en")} feature${found.length === 1 ? "" : "s"}`;
    document.getElementById("map-said").textContent = !found.length ? "none" : found.length > shown ? `${said}, ${shown} of them below` : said;
  };

  let from = null, moved = false;
  const fingers = new Map();
  const between = () => {      // two fingers: how far apart, and the middle
    const [a, b] = [...fingers.values()];
    return { far: Math.hypot(a.x - b.x, a.y - b.y), x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    moved = fingers.size > 1;
    from = fingers.size > 1 ? null : { x: event.offsetX, y: event.offsetY, choosing: event.shiftKey };
  });
  canvas.addEventListener("pointermove", (event) => {
    const x = event.offsetX, y = event.offsetY, last = fingers.get(event.pointerId);
    if (last) {
      const before = fingers.size === 2 && between();
      fingers.set(event.pointerId, { x, y });
      if (before) {
        const now = between();
        move(now.x - before.x, now.y - before.y);
        zoom(now.far / Math.max(before.far, 1), now.x, now.y);
        return;
      }
      moved ||= Math.hypot(x - from?.x, y - from?.y) > 3;
      if (from?.choosing) { box = { x: Math.min(x, from.x), y: Math.min(y, from.y), w: Math.abs(x - from.x), h: Math.abs(y - from.y) }; soon(); }
      else if (moved) move(x - last.x, y - last.y);
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
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  const lifted = (event) => {
    const started = from, area = box;
    fingers.delete(event.pointerId);
    from = null; box = null;
    if (started?.choosing && area) {
      const place = placed(size());
      const found = [...Array(n).keys()].filter((i) => { const [x, y] = place(i); return x >= area.x && x <= area.x + area.w && y >= area.y && y <= area.y + area.h; });
      hits = new Set(found); list(found); soon();
    } else if (started && !moved && event.type === "pointerup") {
      const i = nearest(event.offsetX, event.offsetY);
      if (i !== null && opens.has(data.latents[i])) location.href = link(i);
    }
  };
  canvas.addEventListener("pointerup", lifted);
  canvas.addEventListener("pointercancel", lifted);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / (event.ctrlKey ? 60 : 400)), event.offsetX, event.offsetY);    // ctrl: a touchpad's pinch
  }, { passive: false });
  const ways = { "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: whole,
    ArrowLeft: () => move(60, 0), ArrowRight: () => move(-60, 0), ArrowUp: () => move(0, 60), ArrowDown: () => move(0, -60) };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !ways[event.key]) return;
    event.preventDefault();
    ways[event.key]();
  });
  document.querySelectorAll("[data-way]").forEach((button) => button.addEventListener("click", () => ways[button.dataset.way]()));
  let words = null;
  find.addEventListener("input", () => {
    const word = find.value.toLowerCase();
    words ??= data.latents.map((latent, i) => `${data.t[i]}\n${data.called[latent]?.[0] ?? ""}`.toLowerCase());
    const found = word ? [...Array(n).keys()].filter((i) => String(data.latents[i]) === word || words[i].includes(word)) : [];
    hits = word ? new Set(found) : null;
    if (word) list(found); else { chosen.replaceChildren(); document.getElementById("map-said").textContent = hint; }
    soon();
  });
  addEventListener("resize", stay);
  document.addEventListener("theme", soon);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", soon);
  draw();
}
