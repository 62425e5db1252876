// The gate, called by auth_request: checks login, path, body, origin, role, and files of registered versions. Bodies do not pass through it.
import crypto from 'crypto';
import fs from 'fs';
import registeredFiles from 'registered_files.js';
import requestPath from 'request_path.js';

const SALT = '@{salt}';  // random at each start
const REGISTRY_USER = '@{registry_user}';

// nginx writes keys of the cache to its files, so the key must not reveal the password.
function loginKey(r) {
    const header = r.headersIn.Authorization;
    return header ? crypto.createHmac('sha256', SALT).update(header).digest('hex') : '';
}

// Unknown users are checked against a dummy hash, so that the response takes as long as for known ones.
function checkedLogin(r) {
    return r.variables.known_user ? r.headersIn.Authorization : 'Basic ' + Buffer.from('@{dummy_user}:-').toString('base64');
}

// The /64 of an IPv6 address, because one customer owns at least a /64.
function addressNet(r) {
    const bytes = r.rawVariables.binary_remote_addr;
    return (bytes.length > 8 ? bytes.slice(0, 8) : bytes).toString('hex');
}

// The bodies of the responses keep error_page from applying to the subrequest; clients do not get them.
async function decide(r) {
    const v = r.variables;
    // a request without a login does not count as a guess
    const login = r.headersIn.Authorization ? await r.subrequest('/login') : {status: 401};
    if (login.status == 401) {
        r.return(401, '-');
        return;
    }
    const refusal = login.status == 429 ? 'guesses' : login.status != 200 ? 'closed' : await refusalReason(r, v);
    if (refusal) {
        v.refusal = refusal;
        r.return(403, '-');
        return;
    }
    r.return(204);
}

async function refusalReason(r, v) {
    const method = v.target.split(' ')[0];
    const path = v.target.slice(method.length + 1);
    if (!requestPath.isCanonical(v.request_uri, path)) {
        return 'path';
    }
    if (v.foreign_origin) {
        return 'origin';
    }
    if (v.kind == 'closed') {
        return 'closed';
    }
    if (v.protected) {
        return 'registry';
    }
    if (!v.allowed) {
        return 'role';
    }
    const bodyProblem = bodyRefusal(v, method);
    if (bodyProblem) {
        return bodyProblem;
    }
    const artifact = requestPath.artifactPath(v.request_uri, path);
    if (artifact !== null && (!requestPath.isPlain(artifact) || !requestPath.ids(artifact).length)) {
        return 'no_id';
    }
    if (REGISTRY_USER && (v.kind == 'artifact' || v.kind == 'model') && await registeredFiles.areNeeded(r, path, method)) {
        return 'frozen';
    }
    if (method == 'PUT' && v.kind == 'artifact' && !fitsSpool(v.http_content_length)) {
        return 'space';
    }
    return '';
}

// Limits that are lower than those of the location.
function bodyRefusal(v, method) {
    if (v.http_content_encoding && v.http_content_encoding.toLowerCase() != 'identity') {
        return 'encoding';
    }
    if (v.http_transfer_encoding && !(method == 'PUT' && v.kind == 'artifact')) {
        return 'length';
    }
    const limitKib = /^(GET|HEAD|OPTIONS|DELETE)$/.test(method) ? @{bare_limit_kib} : v.kind == 'read' ? @{read_limit_kib} : Infinity;
    return Number(v.http_content_length || 0) > limitKib * 1024 ? 'body' : '';
}

function fitsSpool(length) {
    try {
        return Number(length || 0) + @{reserve_bytes} <= Number(fs.readFileSync('@{run}/state/free'));
    } catch (e) {
        return true;
    }
}

export default {loginKey, checkedLogin, addressNet, decide};
