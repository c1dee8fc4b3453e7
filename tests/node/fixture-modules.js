'use strict';
// The modules with which the recordings were made. Each factory takes the interval in seconds, 0 for none.

function timeReport(interval) {
  return {
    type: 'pull',
    interval,
    monitorHandler(agent) {
      agent.notify('timeReport', { serverId: agent.id, time: new Date().toString() });
    },
    masterHandler(agent, msg) {
      if (!msg) {
        agent.notifyAll('timeReport', 'testMsg');
        return;
      }
      const data = agent.get('timeReport') || {};
      data[msg.serverId] = msg.time;
      agent.set('timeReport', data);
    },
    clientHandler(agent, msg, cb) {
      cb(null, agent.get('timeReport'));
    },
  };
}

function pushReport(interval) {
  let seq = 0;
  return {
    type: 'push',
    interval,
    monitorHandler(agent) {
      seq += 1;
      agent.notify('pushReport', { serverId: agent.id, seq });
    },
    masterHandler(agent, msg) {
      const data = agent.get('pushReport') || {};
      data[msg.serverId] = msg;
      agent.set('pushReport', data);
    },
    clientHandler(agent, msg, cb) {
      cb(null, agent.get('pushReport') || {});
    },
  };
}

function answerTo(msg, cb) {
  switch (msg.op) {
    case 'ok': return cb(null, { echo: msg.v });
    case 'null': return cb(null, null);
    case 'none': return cb();
    case 'string': return cb('plain error text');
    case 'error': return cb(new Error('boom'));
    case 'errobj': return cb({ code: 500 });
    case 'both': return cb('plain error text', { partial: true });
    case 'swap': return cb({ serverId: 'in-error-position' });
    case 'mute': return undefined;
    default: return cb('unknown op');
  }
}

function echo() {
  const marks = [];
  const asks = {
    request: (agent, msg, cb) => agent.request(msg.target, 'echo', msg.payload, cb),
    requestModule: (agent, msg, cb) => agent.request(msg.target, msg.module, msg.payload, cb),
    notifyById: (agent, msg, cb) => cb(null, agent.notifyById(msg.target, 'echo', msg.payload)),
    notifyByType: (agent, msg, cb) => cb(null, agent.notifyByType(msg.target, 'echo', msg.payload)),
    notifyAll: (agent, msg, cb) => cb(null, agent.notifyAll('echo', msg.payload)),
    notifySlaves: (agent, msg, cb) => cb(null, agent.notifySlavesById(msg.target, 'echo', msg.payload)),
    notifyClient: (agent, msg, cb) => {
      agent.notifyClient(msg.target, 'echo', msg.payload);
      cb(null, true);
    },
    marks: (agent, msg, cb) => cb(null, marks),
    clear: (agent, msg, cb) => {
      marks.length = 0;
      cb(null, true);
    },
    answer: (agent, msg, cb) => answerTo(msg.payload, cb),
  };
  return {
    monitorHandler(agent, msg, cb) {
      if (msg.op === 'mark') {
        agent.notify('echo', { serverId: agent.id, mark: msg.v });
      } else if (msg.op === 'askMaster') {
        agent.request('echo', msg.ask, (err, res) => {
          cb(null, { err: err === undefined ? null : err, res: res === undefined ? null : res });
        });
      } else {
        answerTo(msg, cb);
      }
    },
    masterHandler(agent, msg, cb) {
      if (msg && msg.mark !== undefined) {
        marks.push(msg);
      } else {
        answerTo(msg, cb);
      }
    },
    clientHandler(agent, msg, cb) {
      if (asks[msg.do]) {
        asks[msg.do](agent, msg, cb);
      } else {
        cb(null, msg);
      }
    },
  };
}

const factories = { timeReport, pushReport, echo, noHandlers: () => ({}) };

// Registers `options.modules` (all if absent) in this order; `options.intervals` maps ids to seconds.
function register(service, options) {
  const intervals = options.intervals || {};
  for (const id of options.modules || Object.keys(factories)) {
    service.register(id, factories[id](intervals[id] || 0));
  }
}

module.exports = { register, factories };
