// The report works without scripts; these add filters, highlighting and the choice of budget.

function setUpLegend() {
  const buttons = [...document.querySelectorAll(".legend button")];
  const charts = document.querySelector(".charts");
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      for (const other of buttons) other.setAttribute("aria-pressed", String(on && other === button));
      charts.classList.toggle("picking", on);
      for (const line of charts.querySelectorAll(".line")) line.classList.toggle("picked", on && line.classList.contains(button.dataset.line));
    });
  }
}

function setUpSizes() {
  const buttons = [...document.querySelectorAll(".choice button")];
  const show = (chosen) => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.size === chosen));
    for (const part of document.querySelectorAll(".share-size")) part.classList.toggle("off", part.dataset.size !== chosen);
  };
  for (const button of buttons) button.addEventListener("click", () => show(button.dataset.size));
  if (buttons.length) show(buttons[0].dataset.size);
}

function setUpFilters() {
  const form = document.querySelector(".filters");
  if (!form) return;
  const articles = [...document.querySelectorAll(".failure")];
  const show = () => {
    const { kind, task } = Object.fromEntries(new FormData(form));
    for (const article of articles) {
      article.hidden = Boolean((kind && article.dataset.kind !== kind) || (task && article.dataset.task !== task));
    }
    const left = articles.filter((article) => !article.hidden).length;
    document.getElementById("shown").textContent = `${left} shown`;
  };
  form.addEventListener("change", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
}

function setUpRail() {
  const links = new Map([...document.querySelectorAll(".rail a")].map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  for (const section of document.querySelectorAll("main > section")) watch.observe(section);
}

setUpLegend();
setUpSizes();
setUpFilters();
setUpRail();
addEventListener("beforeprint", () => { for (const details of document.querySelectorAll("details.how")) details.open = true; });
