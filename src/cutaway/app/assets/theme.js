// Before the page is drawn: the theme that was chosen, or else the system's.
{
  let kept = null;
  try { kept = localStorage.getItem("theme"); } catch { /* storage may be closed */ }
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
}
