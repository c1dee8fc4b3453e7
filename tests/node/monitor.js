'use strict';
// An original monitor: node monitor.js MASTER_PORT OPTIONS
// OPTIONS: {"id","type","info","token","keepalive" (ms),"modules":[ids],"intervals":{id:seconds}}
const { say, listen, answer } = require('./line-protocol');
const fixtures = require('./fixture-modules');
const admin = require('pomelo-admin');
require('pomelo-logger').configure({ appenders: [{ type: 'console' }], levels: { '[all]': 'ERROR' } });

const [port, options] = [Number(process.argv[2]), JSON.parse(process.argv[3])];

const monitor = admin.createMonitorConsole({
  id: options.id,
  type: options.type,
  host: '127.0.0.1',
  port,
  info: options.info || { id: options.id, serverType: options.type, host: '127.0.0.1', port: 4000 },
  env: 'development',
  authServer: (msg, env, cb) => cb(options.token === undefined ? 'token-for-' + options.type : options.token),
});
fixtures.register(monitor, options);
monitor.on('close', () => say({ event: 'close' }));
monitor.on('error', (error) => say({ event: 'error', message: String(error) }));
monitor.start((error) => say({ event: error ? 'failed' : 'registered' }));

const socket = monitor.agent.socket;
if (options.keepalive) {
  socket.keepalive = options.keepalive;
}
socket.on('reconnect_ok', (msg) => say({ event: 'reconnected', code: msg.code, msg: msg.msg }));
socket.on('register', (msg) => say({ event: 'answered', code: msg.code, msg: msg.msg }));

listen({
  request: (order, done) => monitor.agent.request(order.module, order.body, answer(done)),
  notify: (order, done) => done(monitor.agent.notify(order.module, order.body)),
  enable: (order, done) => done(monitor.enable(order.module)),
  disable: (order, done) => done(monitor.disable(order.module)),
  break: (order, done) => {
    socket.socket.stream.destroy();
    done(true);
  },
  stop: (order, done) => {
    monitor.stop();
    done(true);
  },
});
