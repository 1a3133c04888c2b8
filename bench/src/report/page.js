(() => {
  const body = document.body;
  let pinned = null;
  const focus = (series) => {
    if (series) body.dataset.focus = series;
    else delete body.dataset.focus;
  };
  const buttons = document.querySelectorAll("[data-pick]");
  buttons.forEach((button) => {
    const series = button.dataset.pick;
    button.addEventListener("mouseenter", () => focus(series));
    button.addEventListener("mouseleave", () => focus(pinned));
    button.addEventListener("click", () => {
      pinned = pinned === series ? null : series;
      buttons.forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.pick === pinned)));
      focus(pinned);
    });
  });
})();
