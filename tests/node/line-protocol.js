'use strict';
// How the tests drive these scripts: a line of JSON on stdin is an order with a number in `call`, a line on
// stdout is its `result` or an `event`. Logs of the packages may stand between; they do not start with `{`.
const readline = require('readline');

function say(message) {
  process.stdout.write(JSON.stringify(message) + '\n');
}

// `orders` maps the name in `do` to a function (order, done). An order may have no answer.
function listen(orders) {
  readline.createInterface({ input: process.stdin }).on('line', (line) => {
    const order = JSON.parse(line);
    const done = (result) => say({ call: order.call, result: result === undefined ? null : result });
    if (!orders[order.do]) {
      throw new Error('unknown order ' + order.do);
    }
    orders[order.do](order, done);
  }).on('close', () => process.exit(0)); // the test is over, or was killed
}

// What a callback of the original got, with undefined as null, since JSON has no undefined.
function answer(done) {
  return (error, body) => done({ error: error === undefined ? null : error, body: body === undefined ? null : body });
}

module.exports = { say, listen, answer };

// As a pomelo application does; without it quirk Q1 ends the process instead of one connection.
process.on('uncaughtException', (error) => {
  say({ event: 'exception', message: String(error && error.message) });
  console.error(error && error.stack);
});
