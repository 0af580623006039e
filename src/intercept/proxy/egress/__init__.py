"""What mitmproxy is told to do with the traffic of VMs.

| module        | what                                                            |
|---------------|-----------------------------------------------------------------|
| `policy`      | who may be reached, by which requests: the only place of that    |
| `host`        | names of hosts, and addresses                                    |
| `path`        | paths of requests, and the rules that they fit                   |
| `credential`  | real values instead of placeholders                              |
| `mask`        | values that must not come back                                   |
| `unescape`    | texts with their escapes decoded                                 |
| `body`        | what of bodies is put on record                                  |
| `layer`       | which protocol a connection speaks, and whether we look into it  |
| `registry`    | the VMs, and their open connections                              |
| `control`     | the connection to the runner                                     |
| `record`      | what is told of a request                                        |
| `websocket`   | how long messages of WebSockets are                              |
| `override`    | functions of mitmproxy's that are replaced                      |
| `addon`       | mitmproxy's events                                               |
"""
