// Decides on each request: login, path, origin, role, protection of registered versions. Asked by auth_request, so bodies stream past it.
import crypto from 'crypto';
import fs from 'fs';

const STATE = '@{run}/state/';
const SALT = '@{salt}';  // new at each start
const REGISTRY_USER = '@{registry_user}';
const BUCKET = '@{bucket}';
const API = '/lookup/api/2.0/mlflow/';
const PAGE = 10000;

const PROBLEMS = {
    path: [400, 'The path is written in an unusual way. Write it without //, dot segments, backslashes and encoded / or dots.'],
    origin: [403, '@{origin_hint}'],
    role: [403, 'Your role does not allow this. Ask an administrator of this server for another role.'],
    closed: [403, 'This server does not offer this.'],
    registry: [403, 'Names, aliases and tags of registered models are moved by the registry service alone. Ask it for a promotion.'],
    frozen: [403, 'A registered version needs these files, so they are not changed or deleted. Log a new model instead.'],
    space: [507, 'There is not enough temporary disk for a file of this size now. Try again later, or give the server more disk.'],
    guesses: [429, 'Too many wrong logins from this address. Try again in a minute.'],
};
const BY_STATUS = {
    401: 'A login is needed: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or type them in the browser.',
    404: 'This server does not offer this.',
    413: 'The body is larger than @{body_limit_mib} MiB. Files of any size go to /api/2.0/mlflow-artifacts/artifacts/.',
    503: 'MLflow is starting, or as many transfers run as may run. Try again; the server log says more.',
    504: 'MLflow did not answer in time. Try again.',
};
const RETRY = {429: 30, 503: 2, 507: 60};

// The cache's files hold their keys, so a key must not be a password in another spelling.
function loginKey(r) {
    const given = r.headersIn.Authorization;
    return given ? crypto.createHmac('sha256', SALT).update(given).digest('hex') : '';
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
    if (v.odd_path) {
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
    if (!v.may && !(REGISTRY_USER && v.remote_user == REGISTRY_USER)) {
        return 'role';
    }
    const asked = v.asked.split(' ');
    const path = v.asked.slice(asked[0].length + 1);
    if (REGISTRY_USER && v.remote_user != REGISTRY_USER && (v.kind == 'artifact' || v.kind == 'model')) {
        const folders = await touched(r, path, asked[0]);
        if (!folders || await anyNeeded(r, folders)) {
            return 'frozen';
        }
    }
    if (asked[0] == 'PUT' && v.kind == 'artifact' && !fits(v.http_content_length)) {
        return 'space';
    }
    return '';
}

function fits(length) {
    try {
        return Number(length || 0) + @{reserve_bytes} <= Number(fs.readFileSync(STATE + 'free'));
    } catch (e) {
        return true;
    }
}

// What a request would change below the artifact root; null where that cannot be said.
async function touched(r, path, method) {
    let match = path.match(/\/logged-models\/([^/]+)$/);
    if (match) {
        return [{path: 'models/' + match[1], whole: true}];
    }
    match = path.match(/\/mlflow-artifacts\/(artifacts|mpu\/\w+)\/(.+)$/);
    if (match) {
        // the name of a multipart upload is in its body: the whole folder counts
        return plain(match[2]) ? [{path: match[2], whole: match[1] != 'artifacts' || method == 'DELETE'}] : null;
    }
    const run = arg(r, 'run_uuid');
    const file = arg(r, 'path');
    if (!run || !file || !/^[0-9a-f]{32}$/.test(run) || !plain(file)) {
        return null;
    }
    const found = await look(r, 'runs/get?run_id=' + run);
    const root = found && below(found.run.info.artifact_uri);
    // MLflow itself writes to the run's default folder when that lies under its own root
    return root ? [{path: root + '/' + file}, {path: found.run.info.experiment_id + '/' + run + '/artifacts/' + file}] : null;
}

function arg(r, name) {
    // given twice: MLflow reads the first one, but who needs that
    const values = (r.variables.request_uri.split('?')[1] || '').split('&').filter((pair) => {
        try {
            return decodeURIComponent(pair.split('=')[0].replace(/\+/g, ' ')) == name;
        } catch (e) {
            return true;
        }
    });
    try {
        return values.length == 1 ? decodeURIComponent(values[0].slice(values[0].indexOf('=') + 1).replace(/\+/g, ' ')) : null;
    } catch (e) {
        return null;
    }
}

// MLflow decodes a path again and again until nothing changes, and trims some; only one that stays as it is can be compared.
function plain(path) {
    return !/[%\\#]|\/\/|^\/|[\x00-\x1f\x7f]/.test(path) && !path.split('/').some((part) => /^\.*$/.test(part) || part != part.trim());
}

async function look(r, query) {
    const answer = await r.subrequest(API + query.split('?')[0], {args: query.split('?')[1] || ''});
    if (answer.status == 404) {
        return null;
    }
    if (answer.status != 200) {
        throw new Error('lookup failed');
    }
    return JSON.parse(answer.responseText || answer.responseBody);
}

// A version's source as a path below the artifact root; '' where it lies elsewhere.
function below(uri) {
    let text = uri || '';
    for (let i = 0; i < 8; i++) {
        try {
            text = decodeURIComponent(text);
        } catch (e) {
            break;
        }
    }
    const match = text.match(/^(mlflow-artifacts):(?:\/\/[^/]*)?\/+(.*)$/) || text.match(/^https?:.*(\/mlflow-artifacts\/artifacts)\/+(.*)$/)
        || text.match(/^s3:\/\/([^/]+)\/+(.*)$/);
    if (!match || (text.startsWith('s3:') && match[1] != BUCKET)) {
        return '';
    }
    return match[2].split('/').filter((part) => part && part != '.').join('/');
}

async function anyNeeded(r, folders) {
    for (let i = 0; i < folders.length; i++) {
        if (await needed(r, folders[i])) {
            return true;
        }
    }
    return false;
}

async function needed(r, target) {
    const parts = target.path.split('/');
    const ids = parts.filter((part) => /^(m-|tr-)?[0-9a-f]{32}$/.test(part));
    if (!ids.length) {
        return true;  // above all runs, models and traces, or beside them: nothing of a client's own lies there
    }
    if (await searched(r, "source_path LIKE 's3://" + BUCKET + "/%'", target, parts)) {
        return true;
    }
    for (let i = 0; i < ids.length; i++) {
        const filters = ["source_path LIKE '%" + ids[i] + "%'"];
        let run = ids[i];
        if (run.startsWith('m-')) {
            const model = await look(r, 'logged-models/' + run);
            run = model && model.model.info.source_run_id;
        }
        if (run && /^[0-9a-f]{32}$/.test(run)) {
            filters.push("run_id = '" + run + "'");
        }
        for (let j = 0; j < filters.length; j++) {
            if (await searched(r, filters[j], target, parts)) {
                return true;
            }
        }
    }
    return false;
}

async function searched(r, filter, target, parts) {
    const found = await look(r, 'model-versions/search?max_results=' + PAGE + '&filter=' + encodeURIComponent(filter));
    if (!found || found.next_page_token) {
        return true;
    }
    const versions = found.model_versions || [];
    for (let i = 0; i < versions.length; i++) {
        if (await holds(r, versions[i], target, parts)) {
            return true;
        }
    }
    return false;
}

async function holds(r, version, target, parts) {
    if (version.model_id && parts.includes(version.model_id)) {
        return true;
    }
    let source = version.source || '';
    if (source.startsWith('models:')) {
        const model = source.match(/^models:\/+(m-[0-9a-f]{32})$/);
        if (model) {
            return parts.includes(model[1]);
        }
        const query = 'name=' + encodeURIComponent(version.name) + '&version=' + encodeURIComponent(version.version);
        const found = await look(r, 'model-versions/get-download-uri?' + query);
        source = found ? found.artifact_uri : '';
    }
    const run = source.match(/^runs:\/+([0-9a-f]{32})\/*(.*)$/);
    if (run) {
        const at = target.path.indexOf(run[1] + '/artifacts/');
        return at < 0 ? parts.includes(run[1]) : overlap(target.path.slice(at + run[1].length + 11), run[2], target.whole);
    }
    const folder = below(source);
    return folder ? overlap(target.path, folder, target.whole) : false;
}

// `whole`: the request may change everything below the path, and beside it where S3 compares the beginnings of names.
function overlap(path, folder, whole) {
    return !folder || path == folder || path.startsWith(folder + '/') || folder.startsWith(path + '/') || (!!whole && folder.startsWith(path));
}

// auth_request can only say 401 or 403; what was meant is answered from here.
function refusal(r) {
    const known = PROBLEMS[r.variables.refusal] || [403, 'This is not allowed.'];
    answer(r, known[0], r.variables.refusal || 'refused', known[1]);
}

// What no location of the gate's knows is answered as if it were behind the login.
function missing(r) {
    const status = r.variables.asked ? 404 : 401;
    answer(r, status, 'refused', BY_STATUS[status]);
}

function problem(r) {
    const status = Number(r.variables.status) || 500;
    answer(r, status, 'refused', BY_STATUS[status] || 'The request failed.');
}

function answer(r, status, title, detail) {
    r.headersOut['Content-Type'] = 'application/problem+json';
    r.headersOut['X-Request-ID'] = r.variables.request_id;
    if (status == 401) {
        r.headersOut['WWW-Authenticate'] = 'Basic realm="tracking", charset="UTF-8"';
    }
    if (RETRY[status]) {
        r.headersOut['Retry-After'] = String(RETRY[status]);
    }
    // MLflow's clients show error_code and message
    const code = status == 401 ? 'UNAUTHENTICATED' : status == 403 ? 'PERMISSION_DENIED' : 'REFUSED';
    r.return(status, JSON.stringify({
        type: 'about:blank', title: title, status: status, detail: detail, error_code: code, message: detail,
        instance: r.variables.request_id,
    }) + '\n');
}

export default {loginKey, addressNet, decide, missing, problem, refusal};
