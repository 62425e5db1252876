// Reads a request's path and query as MLflow will. MLflow decodes a path again and again, drops a trailing ? and ;, takes file: off
// its beginning, and trims; so a path is accepted only in the one spelling that all of this leaves as it is.

// What needs no escape has none; what nobody may write has none either: / ? # ; \ and control characters.
const ESCAPES = /%(?:2[def3]|3[0-9bf]|4[1-9a-f]|5[0-9acf]|6[1-9a-f]|7[0-9aef]|[01][0-9a-f])/i;
const PATH_ARGUMENTS = ['path', 'artifact_path', 'artifact_file_path', 'artifact_directory_path'];

// A path of the artifact store.
function plain(path) {
    return !/[\\#;?]|%[0-9a-f]{2}|\/\/|^\/|[\x00-\x1f\x7f]|^[^\/]*:/i.test(path)
        && !path.split('/').some((part) => /^\.*$/.test(part) || part != part.trim());
}

// Whether nginx, MLflow and the gate read the same path in a request line.
function canonical(line, uri) {
    const raw = line.split('?')[0];
    if (!/^\/[!-~]*$/.test(line) || /[#\\;]|\/\//.test(raw) || line.indexOf('#') >= 0 || ESCAPES.test(raw)) {
        return false;
    }
    let decoded = '';
    try {
        decoded = decodeURIComponent(raw);
    } catch (e) {
        return false;
    }
    const parts = decoded.slice(1).split('/');
    return decoded == uri && !/%[0-9a-f]{2}|[\x00-\x1f\x7f]/i.test(decoded)
        && !parts.some((part) => /^\.+$/.test(part) || part != part.trim())
        && PATH_ARGUMENTS.every((name) => {
            const values = all(line, name);
            return values && (!values.length || (values.length == 1 && (values[0] == '' || plain(values[0]))));
        });
}

// Every value of an argument, decoded; null where one cannot be read.
function all(line, name) {
    const at = line.indexOf('?');
    const pairs = at < 0 ? [] : line.slice(at + 1).split('&');
    const found = [];
    for (let i = 0; i < pairs.length; i++) {
        const equals = pairs[i].indexOf('=');
        const key = equals < 0 ? pairs[i] : pairs[i].slice(0, equals);
        try {
            if (decodeURIComponent(key.replace(/\+/g, ' ')) == name) {
                found.push(equals < 0 ? '' : decodeURIComponent(pairs[i].slice(equals + 1).replace(/\+/g, ' ')));
            }
        } catch (e) {
            return null;
        }
    }
    return found;
}

// The value of an argument that is given once; null otherwise.
function argument(line, name) {
    const values = all(line, name);
    return values && values.length == 1 ? values[0] : null;
}

// The path below the artifact root that a request names; null where it names none.
function stored(line, path) {
    const match = path.match(/\/mlflow-artifacts\/(?:artifacts|presigned|mpu\/\w+)\/(.+)$/);
    if (match) {
        return match[1];
    }
    return /\/mlflow-artifacts\/artifacts\/?$/.test(path) ? argument(line, 'path') || '' : null;
}

// Ids of runs, logged models and traces in a path. What has none is no client's file.
function ids(path) {
    return path.split('/').filter((part) => /^(m-|tr-)?[0-9a-f]{32}$/.test(part));
}

export default {argument, canonical, ids, plain, stored};
