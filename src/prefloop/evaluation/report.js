"use strict";
// Filters the lists of fixed and broken questions by words and by family; report.html?words=…&family=… links to a
// filtered view. The page is whole without it.
{
  const filter = document.getElementById("filter");
  const words = document.getElementById("words");
  const family = document.getElementById("family");
  const count = document.getElementById("count");
  const items = [...document.querySelectorAll("details.found")];
  const texts = items.map((item) => item.textContent.toLowerCase());

  const update = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    items.forEach((item, i) => {
      const fits = (!family.value || item.dataset.family === family.value) && wanted.every((word) => texts[i].includes(word));
      item.hidden = !fits;
      shown += fits;
    });
    count.textContent = `${shown} of ${items.length} questions`;
  };

  const asked = new URLSearchParams(location.search);
  words.value = asked.get("words") ?? "";
  family.value = asked.get("family") ?? "";
  if (family.selectedIndex < 0) family.value = "";
  words.addEventListener("input", update);
  family.addEventListener("change", update);
  filter.hidden = items.length === 0;
  update();
}
