'use strict';
// The original master: node master.js CONFIG_DIR OPTIONS
// OPTIONS: {"port","modules":[ids],"intervals":{id:seconds}}. Without a port it takes a free one, and tells it.
const path = require('path');
const { say, listen } = require('./line-protocol');
const fixtures = require('./fixture-modules');

const [configDir, options] = [process.argv[2], JSON.parse(process.argv[3])];

// pomelo-admin looks for adminUser.json in `config` beside the main module, so the main module moves there.
require.main.filename = path.join(path.dirname(configDir), 'app.js');

const admin = require('pomelo-admin');
require('pomelo-logger').configure({ appenders: [{ type: 'console' }], levels: { '[all]': 'ERROR' } });

const master = admin.createMasterConsole({ port: options.port || 0, env: 'development' });
fixtures.register(master, options);
for (const event of ['register', 'reconnect', 'disconnect']) {
  master.on(event, (record) => say({ event, id: record && (record.id || record) }));
}
master.start((error) => {
  if (error) {
    throw error;
  }
  say({ event: 'listening', port: master.agent.server.server.address().port });
});

listen({
  disable: (order, done) => done(master.disable(order.module)),
  enable: (order, done) => done(master.enable(order.module)),
});
