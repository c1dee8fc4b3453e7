'use strict';
// A small pomelo application. A test copies it, writes config/master.json, and starts one server at a time:
//   node app.js env=development id=chat-server-1 host=127.0.0.1 port=6050 serverType=chat
//   node app.js env=development startId=master
// It tells what happens in lines of JSON; logs of pomelo stand between them and do not start with `{`.
const pomelo = require('pomelo');

const say = (message) => process.stdout.write(JSON.stringify(message) + '\n');

const app = pomelo.createApp();
app.set('name', 'muster-peers');
app.configure('development', 'gate|connector', () => {
  app.set('connectorConfig', { connector: pomelo.connectors.hybridconnector, heartbeat: 3 });
});

const ids = (servers) => servers.map((server) => server.id).sort();
app.event.on('start_server', () => say({ event: 'started', id: app.getServerId() }));
app.event.on('start_all', () => say({ event: 'startedAll' }));
app.event.on('add_servers', (servers) => say({ event: 'added', ids: ids(servers), known: Object.keys(app.getServers()).sort() }));
app.event.on('remove_servers', (gone) => say({ event: 'removed', ids: gone, known: Object.keys(app.getServers()).sort() }));
app.event.on('replace_servers', (servers) => say({ event: 'replaced', ids: ids(servers) }));
app.event.on('add_crons', (crons) => say({ event: 'addedCrons', crons }));
app.event.on('remove_crons', (crons) => say({ event: 'removedCrons', crons }));

app.start();

// The test asks about state that has no event, and breaks links.
const orders = {
  blacklist: () => app.components.__connector__.blacklist,
  servers: () => app.getServers(),
  break: () => {
    app.components.__monitor__.monitor.monitorConsole.agent.socket.socket.stream.destroy();
    return true;
  },
};
// A server that a master started has nobody to give it orders, and stays.
const stdin = require('fs').fstatSync(0);
if (stdin.isFIFO() || stdin.isSocket()) require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
  const order = JSON.parse(line);
  say({ call: order.call, result: orders[order.do]() });
}).on('close', () => process.exit(0));

process.on('uncaughtException', (error) => {
  say({ event: 'exception', message: String(error && error.message) });
  console.error(error && error.stack);
});
