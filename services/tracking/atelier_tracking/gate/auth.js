// Decides on each request: login, path, body, origin, role, protection of registered versions. Asked by auth_request, so bodies stream past.
import crypto from 'crypto';
import fs from 'fs';
import files from 'registered_files.js';
import paths from 'request_path.js';

const SALT = '@{salt}';  // new at each start
const REGISTRY_USER = '@{registry_user}';

// The cache's files hold their keys, so a key must not be a password in another spelling.
function loginKey(r) {
    const given = r.headersIn.Authorization;
    return given ? crypto.createHmac('sha256', SALT).update(given).digest('hex') : '';
}

// A name that does not exist is checked against a hash that no password has, so that it takes as long as one that does.
function checkedLogin(r) {
    return r.variables.known_user ? r.headersIn.Authorization : 'Basic ' + Buffer.from('@{no_user}:-').toString('base64');
}

// One customer of IPv6 owns at least a /64.
function addressNet(r) {
    const bytes = r.rawVariables.binary_remote_addr;
    return (bytes.length > 8 ? bytes.slice(0, 8) : bytes).toString('hex');
}

// The bodies of its answers keep error_page out of the subrequest; nobody sees them.
async function decide(r) {
    const v = r.variables;
    // without a login there is nothing to check, and nothing to count as a guess
    const login = r.headersIn.Authorization ? await r.subrequest('/login') : {status: 401};
    if (login.status == 401) {
        r.return(401, '-');
        return;
    }
    const refusal = login.status == 429 ? 'guesses' : login.status != 200 ? 'closed' : await refused(r, v);
    if (refusal) {
        v.refusal = refusal;
        r.return(403, '-');
        return;
    }
    r.return(204);
}

async function refused(r, v) {
    const method = v.asked.split(' ')[0];
    const path = v.asked.slice(method.length + 1);
    if (!paths.canonical(v.request_uri, path)) {
        return 'path';
    }
    if (v.foreign) {
        return 'origin';
    }
    if (v.kind == 'closed') {
        return 'closed';
    }
    if (v.protected) {
        return 'registry';
    }
    if (!v.may) {
        return 'role';
    }
    const body = oversize(v, method);
    if (body) {
        return body;
    }
    const stored = paths.stored(v.request_uri, path);
    if (stored !== null && (!paths.plain(stored) || !paths.ids(stored).length)) {
        return 'nobody';
    }
    if (REGISTRY_USER && (v.kind == 'artifact' || v.kind == 'model') && await files.frozen(r, path, method)) {
        return 'frozen';
    }
    if (method == 'PUT' && v.kind == 'artifact' && !fits(v.http_content_length)) {
        return 'space';
    }
    return '';
}

// What each location allows is the limit of writes; these are lower.
function oversize(v, method) {
    if (v.http_content_encoding && v.http_content_encoding.toLowerCase() != 'identity') {
        return 'encoding';
    }
    if (v.http_transfer_encoding && !(method == 'PUT' && v.kind == 'artifact')) {
        return 'length';
    }
    const limit_kib = /^(GET|HEAD|OPTIONS|DELETE)$/.test(method) ? @{bare_limit_kib} : v.kind == 'read' ? @{read_limit_kib} : Infinity;
    return Number(v.http_content_length || 0) > limit_kib * 1024 ? 'body' : '';
}

function fits(length) {
    try {
        return Number(length || 0) + @{reserve_bytes} <= Number(fs.readFileSync('@{run}/state/free'));
    } catch (e) {
        return true;
    }
}

export default {loginKey, checkedLogin, addressNet, decide};
