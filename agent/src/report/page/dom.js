// Elements from data. Text only ever becomes a text node, so nothing that an alert says is markup.

export const el = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === false || value === null) continue;
    if (key === "class") made.className = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return made;
};

// Widths and positions go through the object model: the policy allows no style in markup.
export const sized = (made, style) => { Object.assign(made.style, style); return made; };
