// Theme switch and tooltips for every page. Tooltips show on hover, focus and tap.
const root = document.documentElement;

function storedTheme(value) {
  try {
    if (value) localStorage.setItem("lavakv-theme", value);
    return localStorage.getItem("lavakv-theme");
  } catch {
    return null; // files opened from disk may have no storage
  }
}

function setUpTheme(button) {
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => { button.textContent = dark() ? "Light" : "Dark"; };
  const stored = storedTheme();
  if (stored === "light" || stored === "dark") root.dataset.theme = stored;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    storedTheme(root.dataset.theme);
    label();
  });
  label();
}

function setUpTips() {
  const tip = document.createElement("div");
  tip.className = "tip no-print";
  tip.hidden = true;
  document.body.append(tip);
  const show = (event) => {
    const target = event.target.closest?.("[data-tip]");
    tip.hidden = !target;
    if (!target) return;
    tip.textContent = target.dataset.tip;
    const box = target.getBoundingClientRect();
    const left = Math.min(Math.max(box.left + box.width / 2 - tip.offsetWidth / 2, 8), innerWidth - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 6;
    tip.style.left = `${left + scrollX}px`;
    tip.style.top = `${(above > 4 ? above : box.bottom + 6) + scrollY}px`;
  };
  for (const kind of ["pointerover", "focusin", "click"]) document.addEventListener(kind, show);
  addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
}

setUpTheme(document.getElementById("theme"));
setUpTips();
