"use strict";
(() => {
  const network = document.querySelector(".network");
  const tabs = [...network.querySelectorAll("[role=tab]")];
  const panels = tabs.map((tab) => document.getElementById(tab.getAttribute("aria-controls")));
  const buttons = [...document.querySelectorAll(".choice button")];
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  function select(index, show) {
    tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === index));
      tab.tabIndex = i === index ? 0 : -1;
      panels[i].hidden = i !== index;
    });
    const box = panels[index].getBoundingClientRect();
    // a panel that opens out of sight would look as if nothing had happened
    if (show && (box.top > innerHeight - 160 || box.top < 0)) scrollTo(panels[index]);
  }

  function scrollTo(element) {
    element.scrollIntoView({ block: "start", behavior: calm.matches ? "auto" : "smooth" });
  }

  function colour(measure) {
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.measure === measure));
    }
    for (const part of document.querySelectorAll(".explained")) {
      part.hidden = part.dataset.measure !== measure;
    }
    for (const tab of tabs) {
      for (const value of tab.querySelectorAll(".value")) {
        value.hidden = value.dataset.measure !== measure;
        if (!value.hidden) tab.dataset.level = value.dataset.colour;
      }
    }
  }

  tabs.forEach((tab, i) => tab.addEventListener("click", () => select(i, true)));
  network.addEventListener("keydown", (event) => {
    const here = tabs.indexOf(document.activeElement);
    const next = {
      ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1,
      Home: 0, End: tabs.length - 1,
    }[event.key];
    if (here < 0 || next === undefined) return;
    event.preventDefault();
    const index = (next + tabs.length) % tabs.length;
    tabs[index].focus();
    select(index, false);
  });
  panels.forEach((panel, i) => {
    for (const button of panel.querySelectorAll(".steps button")) {
      button.addEventListener("click", () => {
        const step = Number(button.dataset.step);
        if (!step) {
          scrollTo(network);
          tabs[i].focus({ preventScroll: true });
          return;
        }
        select(i + step, false);
        panels[i + step].focus({ preventScroll: true });
        scrollTo(panels[i + step]);
      });
    }
  });
  for (const button of buttons) {
    button.addEventListener("click", () => colour(button.dataset.measure));
  }

  for (const part of document.querySelectorAll(".choice, .steps")) part.hidden = false;
  select(tabs.findIndex((tab) => tab.getAttribute("aria-selected") === "true"), false);
})();
