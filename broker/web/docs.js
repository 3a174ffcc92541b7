// The reference page: shows what /openapi.json and /asyncapi.json say. It takes everything from there, and puts it in
// as text only.

const reference = document.getElementById("reference");
const index = document.getElementById("index");

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const last = (path) => path.split("/").at(-1);
const idOf = (kind, name) => `${kind}-${name.replaceAll(/[^A-Za-z0-9]+/g, "-")}`;

/** What a schema says of a value, in a few words; other schemas by links. */
function typeOf(schema, kind) {
  if (!schema || Object.keys(schema).length === 0) return ["any value"];
  if (schema.$ref) return [element("a", { href: `#${idOf(kind, last(schema.$ref))}` }, last(schema.$ref))];
  const either = schema.anyOf ?? schema.oneOf;
  if (either) return either.flatMap((one, place) => (place ? [" or ", ...typeOf(one, kind)] : typeOf(one, kind)));
  if (schema.const !== undefined) return [JSON.stringify(schema.const)];
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" | ")];
  const types = [schema.type ?? "any value"].flat();
  const parts = [types.join(" or ")];
  if (types.includes("array") && schema.items) parts.push(" of ", ...typeOf(schema.items, kind));
  const bounds = [
    ["minimum", "from"], ["maximum", "to"], ["minLength", "at least"], ["maxLength", "at most"], ["maxItems", "at most"],
    ["pattern", "like"],
  ];
  for (const [name, word] of bounds) if (schema[name] !== undefined) parts.push(`, ${word} ${schema[name]}`);
  return parts;
}

function table(caption, heads, rows) {
  if (rows.length === 0) return null;
  const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)));
  const body = rows.map((cells) => element("tr", {}, ...cells.map((cell) => element("td", {}, ...[cell].flat()))));
  const made = element("table", {}, element("caption", {}, caption), element("thead", {}, head), element("tbody", {}, ...body));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, made);
}

function fields(caption, schema, kind) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) => [
    element("code", {}, (schema.required ?? []).includes(name) ? name : `${name}?`),
    typeOf(field, kind),
    field.description ?? "",
  ]);
  return table(caption, ["Field", "Value", ""], rows);
}

function operation(document_, path, method, described) {
  const look = (item) => (item.$ref ? document_.components.parameters[last(item.$ref)] : item);
  const parameters = (described.parameters ?? []).map(look).map((parameter) => [
    element("code", {}, parameter.required ? parameter.name : `${parameter.name}?`),
    parameter.in,
    typeOf(parameter.schema ?? parameter.content["application/json"].schema, "schema"),
    parameter.description ?? "",
  ]);
  const body = described.requestBody?.content["application/json"].schema;
  const answers = Object.entries(described.responses).map(([status, response]) => {
    const schema = response.content?.["application/json"]?.schema;
    const said = response.$ref ? typeOf({ $ref: "#/components/schemas/Problem" }, "schema") : schema ? typeOf(schema, "schema") : ["nothing"];
    return [element("code", {}, status), said, response.description ?? ""];
  });
  const open = described.security?.length === 0;
  return element(
    "section",
    { class: "entry", id: described.operationId },
    element("h3", {}, element("span", { class: "method" }, method.toUpperCase()), " ", element("code", {}, path)),
    element("p", {}, described.summary, " ", described.description ?? "", open ? " No token is needed." : ""),
    body ? element("p", {}, "Body: ", ...typeOf(body, "schema")) : null,
    table("Parameters", ["Name", "In", "Value", ""], parameters),
    table("Answers", ["Status", "Body", ""], answers),
  );
}

function group(title, entries) {
  index.append(element("li", { class: "group" }, title));
  reference.append(element("h2", { id: idOf("group", title) }, title));
  for (const { id, name, node } of entries) {
    index.append(element("li", {}, element("a", { href: `#${id}` }, name)));
    reference.append(node);
  }
}

function showOpenApi(document_) {
  document.getElementById("about").textContent = document_.info.description;
  const groups = new Map();
  for (const [path, methods] of Object.entries(document_.paths)) {
    for (const [method, described] of Object.entries(methods)) {
      const entry = { id: described.operationId, name: `${method.toUpperCase()} ${path}`, node: operation(document_, path, method, described) };
      const tag = described.tags[0];
      groups.set(tag, [...(groups.get(tag) ?? []), entry]);
    }
  }
  for (const [tag, entries] of groups) group(tag, entries);
  group("schemas", Object.entries(document_.components.schemas).map(([name, schema]) => schemaEntry("schema", name, schema)));
}

function schemaEntry(kind, name, schema) {
  const id = idOf(kind, name);
  const node = element(
    "section",
    { class: "entry", id },
    element("h3", {}, element("code", {}, name)),
    schema.description ? element("p", {}, schema.description) : null,
    schema.properties ? fields(`Fields of ${name}`, schema, kind) : element("p", { class: "soft" }, ...typeOf(schema, kind)),
  );
  return { id, name, node };
}

function showAsyncApi(document_) {
  for (const [name, channel] of Object.entries(document_.channels)) {
    const messages = Object.keys(channel.messages).map((key) => {
      const message = document_.components.messages[last(channel.messages[key].$ref)];
      const entry = schemaEntry("message", key, message.payload);
      if (message.summary) entry.node.querySelector("h3").after(element("p", {}, message.summary));
      return entry;
    });
    group(channel.title ?? name, messages);
  }
  const shared = document_.components.schemas ?? {};
  group("shared by messages", Object.entries(shared).map(([name, schema]) => schemaEntry("message", name, schema)));
}

async function read(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path} answers ${response.status}`);
  return response.json();
}

const state = document.getElementById("state");
try {
  const [http, events] = await Promise.all([read("/openapi.json"), read("/asyncapi.json")]);
  state.remove();
  showOpenApi(http);
  showAsyncApi(events);
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
} catch (error) {
  state.textContent = `The documents cannot be read: ${error.message}`;
}
