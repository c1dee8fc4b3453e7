'use strict';
// An original client: node client.js MASTER_PORT
const { say, listen, answer } = require('./line-protocol');
const { adminClient: AdminClient } = require('pomelo-admin');
require('pomelo-logger').configure({ appenders: [{ type: 'console' }], levels: { '[all]': 'ERROR' } });

const port = Number(process.argv[2]);
let client;

listen({
  connect: (order, done) => {
    client = new AdminClient({ username: order.username, password: order.password, md5: order.md5 });
    client.on('close', () => say({ event: 'close' }));
    client.on('error', (error) => say({ event: 'error', message: String(error) }));
    client.connect(order.id, '127.0.0.1', port, (error) => done({ error: error === undefined ? null : error }));
  },
  request: (order, done) => client.request(order.module, order.body, answer(done)),
  notify: (order, done) => done(client.notify(order.module, order.body)),
  command: (order, done) => client.command(order.command, order.module, order.body, answer(done)),
  listen: (order, done) => {
    client.on(order.module, (msg) => say({ event: 'notify', module: order.module, msg }));
    done(true);
  },
  break: (order, done) => {
    client.socket.socket.stream.destroy();
    done(true);
  },
  disconnect: (order, done) => {
    client.socket.disconnect();
    done(true);
  },
});
