// What a script finds: called once per run with the host's functions and what is known of the server.
// Everything that crosses is text; the host parses and prints JSON.
(function (host, facts, switchedOn) {
  'use strict';
  const define = (name, value) =>
    Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });

  // === the clock is looked at between steps: no step may take long by itself ===
  // This is against mistakes. Whoever means it finds another way, and may stop servers anyhow.
  const STEPS = 1e6;
  const guard = (prototype, names, cost) => {
    for (const name of names) {
      const original = prototype[name];
      const value = function (...args) {
        if (cost(this, args[0]) > STEPS) throw new RangeError(`${name} of something that long`);
        return original.apply(this, args);
      };
      Object.defineProperty(value, 'name', { value: name });
      Object.defineProperty(prototype, name, { value, writable: true, configurable: true, enumerable: false });
    }
  };
  const ofLists = ['concat', 'copyWithin', 'fill', 'flat', 'join', 'reverse', 'shift', 'slice', 'sort', 'splice',
    'toReversed', 'toSorted', 'toSpliced', 'toString', 'unshift', 'with'];
  guard(Array.prototype, ofLists, (list) => list.length);
  const ofTexts = ['includes', 'indexOf', 'lastIndexOf', 'replace', 'replaceAll', 'split'];
  guard(String.prototype, ofTexts, (text, part) =>
    typeof part === 'string' ? (text.length * Math.min(part.length, text.length)) / 100 : 0);

  // === inspect: as node's util.inspect prints, on one line ===
  const DEPTH = 2;
  const MOST = 100;
  const isName = (key) => /^[A-Za-z_$][\w$]*$/.test(key);
  const quote = (text) => {
    const mark = !text.includes("'") ? "'" : !text.includes('"') ? '"' : !text.includes('`') ? '`' : "'";
    const escaped = JSON.stringify(text).slice(1, -1).replace(/\\"/g, '"');
    return mark + (mark === "'" ? escaped.replace(/'/g, "\\'") : escaped) + mark;
  };
  const list = (open, items, close) => (items.length ? `${open} ${items.join(', ')} ${close}` : open + close);
  const inspect = (value, above = []) => {
    switch (typeof value) {
      case 'string': return quote(value);
      case 'number': return Object.is(value, -0) ? '-0' : String(value);
      case 'bigint': return `${value}n`;
      case 'function': {
        const kind = /^class\b/.test(Function.prototype.toString.call(value)) ? 'class' : 'Function';
        return value.name ? `[${kind}${kind === 'class' ? ' ' : ': '}${value.name}]` : `[${kind} (anonymous)]`;
      }
      case 'object': break;
      default: return String(value);
    }
    if (value === null) return 'null';
    if (above.includes(value)) return '[Circular *1]';
    if (value instanceof Error) return `${value}\n${value.stack || ''}`.trimEnd();
    if (value instanceof RegExp) return String(value);
    if (value instanceof Date) return Number.isNaN(value.getTime()) ? 'Invalid Date' : value.toISOString();
    if (value instanceof Promise) return 'Promise { <unknown> }';
    const isList = Array.isArray(value);
    const maker = value.constructor && value.constructor.name;
    if (above.length > DEPTH) return isList ? '[Array]' : `[${maker || 'Object'}]`;
    const inner = (item) => inspect(item, above.concat([value]));
    const rest = (count) => (count > MOST ? [`... ${count - MOST} more item${count - MOST > 1 ? 's' : ''}`] : []);
    if (isList) return list('[', value.slice(0, MOST).map(inner).concat(rest(value.length)), ']');
    if (value instanceof Set) return list(`Set(${value.size}) {`, [...value].slice(0, MOST).map(inner), '}');
    if (value instanceof Map) {
      const entries = [...value].slice(0, MOST).map(([key, item]) => `${inner(key)} => ${inner(item)}`);
      return list(`Map(${value.size}) {`, entries, '}');
    }
    const keys = Object.keys(value);
    const fields = keys.slice(0, MOST).map((key) => `${isName(key) ? key : quote(key)}: ${inner(value[key])}`);
    const name = maker === undefined || maker === null ? '[Object: null prototype] ' : maker === 'Object' ? '' : `${maker} `;
    return list(`${name}{`, fields.concat(rest(keys.length)), '}');
  };
  const format = (...parts) => parts.map((part) => (typeof part === 'string' ? part : inspect(part))).join(' ');
  const util = { inspect: (value) => inspect(value), format };

  // === app ===
  const get = (key) => {
    const json = host.get(String(key));
    if (json !== undefined) return JSON.parse(json);
    return Object.hasOwn(facts.app, key) ? facts.app[key] : undefined;
  };
  const set = (key, value) => {
    const json = JSON.stringify(value);
    host.set(String(key), json === undefined ? 'null' : json);
    return app;
  };
  const app = {
    ...facts.app,
    get,
    set,
    enable: (key) => set(key, true),
    disable: (key) => set(key, false),
    enabled: (key) => !!get(key),
    disabled: (key) => !get(key),
    getServerId: () => facts.app.serverId,
    getServerType: () => facts.app.serverType,
    getCurServer: () => facts.app.info,
    isMaster: () => facts.app.serverType === 'master',
  };

  // === console, os, process, fs, require ===
  const print = (...parts) => host.log(format(...parts));
  const console = { log: print, info: print, warn: print, error: print, debug: print };
  const os = { EOL: '\n' };
  for (const name of Object.keys(facts.os)) os[name] = () => facts.os[name];
  const modules = { os, util };
  define('app', app);
  define('console', console);
  define('os', os);
  define('util', util);
  if (facts.process) {
    const { memory, uptime, ...plain } = facts.process;
    modules.process = { ...plain, memoryUsage: () => memory, uptime: () => uptime };
    define('process', modules.process);
  }
  if (switchedOn.fs) {
    modules.fs = {
      readFileSync: (name) => host.readFile(String(name)),
      writeFileSync: (name, text) => host.writeFile(String(name), String(text)),
      readdirSync: () => JSON.parse(host.readDirectory()),
      existsSync: (name) => host.exists(String(name)),
    };
    define('fs', modules.fs);
  }
  if (switchedOn.require) {
    define('require', (name) => {
      if (Object.hasOwn(modules, name)) return modules[name];
      throw new Error(`Cannot find module '${name}'`);
    });
  }
  return inspect;
})
